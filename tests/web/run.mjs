// Ascent steps in onnxruntime-web (WebAssembly) under Node.
//
//   node run.mjs JOB.json
//
// The job: { module, model, dims: [N, 3, H, W], stepSize, steps: [{ image, shift: [dy, dx], out }, …] }, where `module`
// is onnxruntime-web's entry file, and `image` and `out` are files of raw float32. A step without `image` starts where
// the one before it ended.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ort = await import(pathToFileURL(job.module).href);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(job.model), { executionProviders: ["wasm"] });

function read(path) {
  const bytes = new Uint8Array(readFileSync(path)); // a copy of its own, so that the floats in it are aligned
  return new ort.Tensor("float32", new Float32Array(bytes.buffer), job.dims);
}

let dreamed = null;
for (const step of job.steps) {
  const result = await session.run({
    image: step.image ? read(step.image) : dreamed,
    step_size: new ort.Tensor("float32", Float32Array.of(job.stepSize), []),
    shift: new ort.Tensor("int64", BigInt64Array.from(step.shift, BigInt), [2]),
  });
  dreamed = result.dreamed;
  writeFileSync(step.out, new Uint8Array(dreamed.data.buffer, dreamed.data.byteOffset, dreamed.data.byteLength));
}
