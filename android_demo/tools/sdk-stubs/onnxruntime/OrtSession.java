package ai.onnxruntime;

import java.util.Map;
import java.util.Set;

public class OrtSession implements AutoCloseable {
  public Map<String, NodeInfo> getInputInfo() throws OrtException { return null; }

  public Map<String, NodeInfo> getOutputInfo() throws OrtException { return null; }

  public Result run(
      Map<String, ? extends OnnxTensorLike> inputs,
      Set<String> requestedOutputs,
      Map<String, ? extends OnnxValue> pinnedOutputs,
      RunOptions runOptions)
      throws OrtException { return null; }

  @Override
  public void close() throws OrtException {}

  public static class SessionOptions implements AutoCloseable {
    public SessionOptions() {}

    public void setIntraOpNumThreads(int numThreads) throws OrtException {}

    public void setInterOpNumThreads(int numThreads) throws OrtException {}

    public void setMemoryPatternOptimization(boolean memoryPatternOptimization) throws OrtException {}

    public void addConfigEntry(String configKey, String configValue) throws OrtException {}

    @Override
    public void close() {}
  }

  public static class RunOptions implements AutoCloseable {
    public RunOptions() throws OrtException {}

    public void setTerminate(boolean terminate) throws OrtException {}

    @Override
    public void close() {}
  }

  public static class Result implements AutoCloseable {
    @Override
    public void close() {}
  }
}
