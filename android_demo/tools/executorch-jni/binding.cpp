// The native half of ../sdk-stubs/executorch/Module.kt, over the libraries in executorch's wheel: what the published
// binding for Android does with a program. Above all it gives outputs no memory. Two things it leaves out: the number of
// threads, for which the wheel has no header, and inputs of ones where a method is run without any.
//
// Source: pytorch/executorch extension/android/jni/jni_layer.cpp (main at cff6f4dd).

#include <jni.h>

#include <functional>
#include <sstream>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::EValue;

namespace {

struct Failure {
  Error code;
  std::string what;
};

void check(Error code, const std::string& what) {
  if (code != Error::Ok) throw Failure{code, what};
}

template <typename T>
T guarded(JNIEnv* env, const std::function<T()>& call) {
  try {
    return call();
  } catch (const Failure& failure) {
    jclass type = env->FindClass("org/pytorch/executorch/ExecutorchRuntimeException");
    jmethodID make = env->GetMethodID(type, "<init>", "(ILjava/lang/String;)V");
    jobject error = env->NewObject(type, make, static_cast<jint>(failure.code), env->NewStringUTF(failure.what.c_str()));
    env->Throw(static_cast<jthrowable>(error));
  }
  return T();
}

std::string text(JNIEnv* env, jstring given) {
  const char* characters = env->GetStringUTFChars(given, nullptr);
  std::string result(characters);
  env->ReleaseStringUTFChars(given, characters);
  return result;
}

std::vector<jlong> numbers(JNIEnv* env, jobjectArray arrays, jsize index) {
  auto array = static_cast<jlongArray>(env->GetObjectArrayElement(arrays, index));
  std::vector<jlong> result(env->GetArrayLength(array));
  env->GetLongArrayRegion(array, 0, static_cast<jsize>(result.size()), result.data());
  env->DeleteLocalRef(array);
  return result;
}

void set(JNIEnv* env, jobjectArray results, jsize index, jobject memory, const std::vector<jlong>& typeAndShape) {
  jlongArray array = env->NewLongArray(static_cast<jsize>(typeAndShape.size()));
  env->SetLongArrayRegion(array, 0, static_cast<jsize>(typeAndShape.size()), typeAndShape.data());
  env->SetObjectArrayElement(results, 2 * index, memory);
  env->SetObjectArrayElement(results, 2 * index + 1, array);
  env->DeleteLocalRef(array);
  if (memory != nullptr) env->DeleteLocalRef(memory);
}

// Android's build shares packed weights among the methods of all programs.
void share_packed_weights() {
  executorch::runtime::BackendOptions<1> options;
  check(options.set_option("weight_cache_enabled", true), "weight_cache_enabled");
  check(executorch::runtime::set_option("XnnpackBackend", options.view()), "weight_cache_enabled");
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_org_pytorch_executorch_Module_open(JNIEnv* env, jclass, jstring path, jint mode, jint) {
  return guarded<jlong>(env, [&] {
    share_packed_weights();
    return reinterpret_cast<jlong>(new Module(text(env, path), mode == 1 ? Module::LoadMode::Mmap : Module::LoadMode::File));
  });
}

JNIEXPORT void JNICALL Java_org_pytorch_executorch_Module_close(JNIEnv*, jclass, jlong handle) {
  delete reinterpret_cast<Module*>(handle);
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_names(JNIEnv* env, jclass, jlong handle) {
  return guarded<jobjectArray>(env, [&] {
    const auto names = reinterpret_cast<Module*>(handle)->method_names();
    // A damaged file: the published one hides the code in its words.
    std::ostringstream what;
    what << "Cannot get load module [Native Error: 0x" << std::hex << std::uppercase << static_cast<uint32_t>(names.error()) << "]";
    check(names.ok() ? Error::Ok : Error::InvalidArgument, what.str());
    jobjectArray result = env->NewObjectArray(static_cast<jsize>(names->size()), env->FindClass("java/lang/String"), nullptr);
    jsize index = 0;
    for (const std::string& name : *names) env->SetObjectArrayElement(result, index++, env->NewStringUTF(name.c_str()));
    return result;
  });
}

JNIEXPORT void JNICALL Java_org_pytorch_executorch_Module_prepare(JNIEnv* env, jclass, jlong handle, jstring name) {
  guarded<int>(env, [&] {
    const std::string method = text(env, name);
    check(reinterpret_cast<Module*>(handle)->load_method(method), "Failed to load method: " + method);
    return 0;
  });
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_run(
    JNIEnv* env, jclass, jlong handle, jstring name, jobjectArray buffers, jobjectArray typesAndShapes) {
  return guarded<jobjectArray>(env, [&] {
    std::vector<executorch::extension::TensorPtr> tensors;
    std::vector<EValue> inputs;
    for (jsize i = 0; i < env->GetArrayLength(buffers); ++i) {
      jobject buffer = env->GetObjectArrayElement(buffers, i);
      const std::vector<jlong> given = numbers(env, typesAndShapes, i);
      const std::vector<SizesType> sizes(given.begin() + 1, given.end());
      tensors.push_back(executorch::extension::from_blob(
          env->GetDirectBufferAddress(buffer), sizes, static_cast<ScalarType>(given[0])));
      inputs.emplace_back(tensors.back());
      env->DeleteLocalRef(buffer);
    }
    const std::string method = text(env, name);
    const auto outputs = reinterpret_cast<Module*>(handle)->execute(method, inputs);
    check(outputs.error(), "Execution failed for method: " + method);
    const auto count = static_cast<jsize>(outputs->size());
    jobjectArray results = env->NewObjectArray(2 * count, env->FindClass("java/lang/Object"), nullptr);
    for (jsize i = 0; i < count; ++i) {
      const EValue& value = outputs->at(i);
      if (!value.isTensor()) {
        set(env, results, i, nullptr, {-1, value.isInt() ? value.toInt() : value.toBool()});
        continue;
      }
      const auto& tensor = value.toTensor();
      std::vector<jlong> found{static_cast<jlong>(tensor.scalar_type())};
      found.insert(found.end(), tensor.sizes().begin(), tensor.sizes().end());
      void* memory = const_cast<void*>(tensor.const_data_ptr());
      set(env, results, i, env->NewDirectByteBuffer(memory, static_cast<jlong>(tensor.nbytes())), found);
    }
    return results;
  });
}

}  // extern "C"
