package android.widget;

public class ScrollView extends FrameLayout {
    public boolean fullScroll(int direction) { return true; }
}
