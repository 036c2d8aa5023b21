package android.widget;

import android.view.View;

public class TextView extends View {
    public final void setText(CharSequence text) {}

    public final void setText(int resid) {}

    public final void setHint(int resid) {}

    public final void append(CharSequence text) {}

    public CharSequence getText() { return null; }
}
