package ai.onnxruntime;

import java.nio.ByteBuffer;

public class OnnxTensor extends OnnxTensorLike {
  public static OnnxTensor createTensor(OrtEnvironment env, ByteBuffer data, long[] shape, OnnxJavaType type)
      throws OrtException { return null; }

  @Override
  public void close() {}
}
