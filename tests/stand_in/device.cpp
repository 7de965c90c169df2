// A device for tests. Its memory is the CPU's, but PyTorch takes it for an accelerator's: an operation on tensors of both
// is refused, and so is an array of NumPy's on its memory. All arithmetic is the CPU's.

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/torch.h>

#include <cstring>
#include <optional>
#include <string>
#include <tuple>

namespace {

using at::IntArrayRef;
using at::Tensor;
using std::optional;

constexpr auto KIND = c10::DeviceType::PrivateUse1;
const c10::Device THERE(KIND, 0);

struct Memory final : c10::Allocator {
  static void release(void* memory) { c10::GetCPUAllocator()->raw_deleter()(memory); }
  c10::DataPtr allocate(size_t bytes) override {
    void* found = c10::GetCPUAllocator()->allocate(bytes).release_context();
    return {found, found, &release, THERE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

struct Hooks final : at::PrivateUse1HooksInterface {
  Hooks() { at::RegisterPrivateUse1HooksInterface(this); }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    at::native::resize_bytes_nocuda(storage, bytes);
  }
};

Hooks* const hooks = new Hooks();

// One stream, on which everything is done at once: there is nothing to wait for.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<KIND> {
  static c10::Stream only() { return c10::Stream(c10::Stream::DEFAULT, THERE); }
  c10::Device getDevice() const override { return THERE; }
  c10::Device exchangeDevice(c10::Device) const override { return THERE; }
  c10::Stream getStream(c10::Device) const noexcept override { return only(); }
  c10::Stream getDefaultStream(c10::Device) const override { return only(); }
  c10::Stream getNewStream(c10::Device, int) const override { return only(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return only(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// The same memory as a tensor of the CPU.
Tensor here(const Tensor& x) {
  if (!x.defined() || !x.is_privateuseone()) return x;
  return at::from_blob(x.data_ptr(), x.sizes(), x.strides(), x.options().device(at::kCPU));
}

Tensor there(const Tensor& x) { return x.defined() ? x.to(THERE) : x; }

Tensor empty(IntArrayRef size, optional<at::ScalarType> type, optional<at::Layout>, optional<at::Device>, optional<bool>,
             optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(type), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, optional<at::ScalarType> type, optional<at::Layout>,
                     optional<at::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(type));
}

Tensor as_strided(const Tensor& x, IntArrayRef size, IntArrayRef stride, optional<int64_t> offset) {
  return at::cpu::as_strided(x, size, stride, offset);
}

Tensor view(const Tensor& x, c10::SymIntArrayRef size) { return at::native::view(x, C10_AS_INTARRAYREF_SLOW(size)); }

Tensor reshape_alias(const Tensor& x, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(x, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

Tensor& set(Tensor& x, at::Storage source, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  return at::cpu::set_(x, source, offset, size, stride);
}

Tensor& set_all(Tensor& x, at::Storage source) {
  const int64_t size = source.nbytes() / x.itemsize(), one = 1;
  return at::cpu::set_(x, source, 0, IntArrayRef(size), IntArrayRef(one));
}

const Tensor& resize(const Tensor& x, c10::SymIntArrayRef size, optional<at::MemoryFormat> format) {
  return at::native::resize_(x, C10_AS_INTARRAYREF_SLOW(size), format);
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  here(to).copy_(here(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar number(const Tensor& x) { return here(x).item(); }

Tensor convolution(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output, int64_t groups) {
  TORCH_CHECK(x.device() == weight.device(), "a convolution was given tensors of two devices");
  const optional<Tensor> b = bias ? optional(here(*bias)) : std::nullopt;
  return there(at::convolution(here(x), here(weight), b, stride, padding, dilation, transposed, output, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& slope, const Tensor& x, const Tensor& weight, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output, int64_t groups, std::array<bool, 3> needed) {
  TORCH_CHECK(x.device() == weight.device() && slope.device() == x.device(),
              "the way back of a convolution was given tensors of two devices");
  const int64_t size = weight.size(0);
  auto [a, b, c] = at::convolution_backward(here(slope), here(x), here(weight), IntArrayRef(size), stride, padding,
                                            dilation, transposed, output, groups, needed);
  return {there(a), there(b), there(c)};
}

// CUDA takes single numbers and indices of the CPU, and nothing else of it.
void everything_else(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const std::string name = operation.schema().name();
  const auto mixes = {"aten::index", "aten::_index_put", "aten::copy_", "aten::_fused_adam_"};
  if (std::none_of(mixes.begin(), mixes.end(), [&](const char* x) { return name.rfind(x, 0) == 0; })) {
    for (const auto& value : torch::jit::last(stack, operation.schema().arguments().size())) {
      if (!value.isTensor() || !value.toTensor().defined()) continue;
      const Tensor& x = value.toTensor();
      TORCH_CHECK(x.dim() == 0 || x.is_privateuseone(), name, " was given a tensor of the CPU, ", x.sizes());
    }
  }
  at::native::cpu_fallback(operation, stack);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&everything_else>());
}

// Mixed precision changes nothing: it computes in the types that it is given.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) { library.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", &as_strided);
  library.impl("view", &view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("set_.source_Storage_storage_offset", &set);
  library.impl("set_.source_Storage", &set_all);
  library.impl("resize_", &resize);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &number);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
}

}  // namespace
