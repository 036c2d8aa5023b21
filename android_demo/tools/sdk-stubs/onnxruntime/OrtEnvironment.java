package ai.onnxruntime;

import ai.onnxruntime.OrtSession.SessionOptions;

public final class OrtEnvironment implements AutoCloseable {
  public static OrtEnvironment getEnvironment(OrtLoggingLevel logLevel) { return null; }

  public OrtSession createSession(String modelPath, SessionOptions options) throws OrtException { return null; }

  public void setTelemetry(boolean sendTelemetry) throws OrtException {}

  public String getVersion() { return null; }

  @Override
  public void close() {}
}
