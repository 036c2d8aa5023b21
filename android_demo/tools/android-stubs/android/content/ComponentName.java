package android.content;

public final class ComponentName {
    public String getClassName() { return null; }
}
