package ai.onnxruntime;

public class NodeInfo {
  public ValueInfo getInfo() { return null; }
}
