package ai.onnxruntime;

public class OrtException extends Exception {
  public OrtException(OrtErrorCode code, String message) {}

  public OrtErrorCode getCode() { return null; }

  public enum OrtErrorCode {
    ORT_JAVA_UNKNOWN,
    ORT_OK,
    ORT_FAIL,
    ORT_INVALID_ARGUMENT,
    ORT_NO_SUCHFILE,
    ORT_NO_MODEL,
    ORT_ENGINE_ERROR,
    ORT_RUNTIME_EXCEPTION,
    ORT_INVALID_PROTOBUF,
    ORT_MODEL_LOADED,
    ORT_NOT_IMPLEMENTED,
    ORT_INVALID_GRAPH,
    ORT_EP_FAIL,
    ORT_MODEL_LOAD_CANCELED,
    ORT_MODEL_REQUIRES_COMPILATION,
    ORT_NOT_FOUND,
    ORT_DEVICE_RESET;
  }
}
