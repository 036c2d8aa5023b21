package android.view;

public abstract class ViewGroup extends View {
    public View getChildAt(int index) { return null; }
}
