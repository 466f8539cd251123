// Dreams a picture with a file that `onnxdream export` wrote, through ONNX Runtime's C++ API.
//
//   onnxdream export squeezenet1_1 -l fire5 -o step.onnx
//   g++ -std=c++17 -O2 dream.cpp -I/usr/include/onnxruntime -lonnxruntime -o dream
//   convert photo.jpg photo.ppm && ./dream step.onnx photo.ppm dream.ppm 20
//
// Pictures are binary PPM (P6), which every picture program reads and writes.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<float> planes;  // R, G, B, each [height, width], in 0..255
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t width = 0, height = 0, top = 0;
  file >> kind >> width >> height >> top;
  file.get();
  if (!file || kind != "P6" || top != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + ": not a binary PPM of 8 bits");
  std::vector<unsigned char> bytes(3 * width * height);
  if (!file.read(reinterpret_cast<char*>(bytes.data()), bytes.size())) throw std::runtime_error(path + ": cut off");
  Picture picture{height, width, std::vector<float>(bytes.size())};
  const size_t plane = width * height;
  for (size_t i = 0; i < bytes.size(); ++i) picture.planes[i % 3 * plane + i / 3] = bytes[i];
  return picture;
}

void write_ppm(const std::string& path, const Picture& picture) {
  const size_t plane = picture.width * picture.height;
  std::vector<unsigned char> bytes(3 * plane);
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<unsigned char>(std::lround(std::clamp(picture.planes[i % 3 * plane + i / 3], 0.f, 255.f)));
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
  if (!file.write(reinterpret_cast<const char*>(bytes.data()), bytes.size()))
    throw std::runtime_error(path + ": cannot be written");
}

// One step of ascent, the picture rolled by `shift` (down, right) while its gradient is taken. Returns the objective.
float step(Ort::Session& session, Picture& picture, float size, std::array<int64_t, 2> shift) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::array<int64_t, 4> shape{1, 3, picture.height, picture.width};
  const std::array<int64_t, 1> two{2};
  const char* in[] = {"image", "step_size", "shift"};
  const char* out[] = {"dreamed", "objective"};
  Ort::Value values[] = {
      Ort::Value::CreateTensor<float>(memory, picture.planes.data(), picture.planes.size(), shape.data(), 4),
      Ort::Value::CreateTensor<float>(memory, &size, 1, nullptr, 0),
      Ort::Value::CreateTensor<int64_t>(memory, shift.data(), 2, two.data(), 1),
  };
  auto results = session.Run(Ort::RunOptions{nullptr}, in, values, 3, out, 2);
  const float* dreamed = results[0].GetTensorData<float>();
  picture.planes.assign(dreamed, dreamed + picture.planes.size());
  return *results[1].GetTensorData<float>();
}

int main(int count, char** arguments) try {
  if (count < 4 || count > 5) throw std::runtime_error("usage: dream step.onnx in.ppm out.ppm [steps]");
  const int steps = count == 5 ? std::stoi(arguments[4]) : 20;
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "dream");
  Ort::Session session(environment, arguments[1], Ort::SessionOptions{});
  Picture picture = read_ppm(arguments[2]);
  std::mt19937 random(0);
  std::uniform_int_distribution<int64_t> jitter(-32, 32);
  for (int i = 0; i < steps; ++i) std::cout << step(session, picture, 1.5f, {jitter(random), jitter(random)}) << '\n';
  write_ppm(arguments[3], picture);
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
