package android.view;

public class View {
    public static final int VISIBLE = 0;
    public static final int GONE = 8;

    public interface OnClickListener {
        void onClick(View v);
    }

    public final <T extends View> T findViewById(int id) { return null; }

    public void setOnClickListener(OnClickListener l) {}

    public void setContentDescription(CharSequence contentDescription) {}

    public CharSequence getContentDescription() { return null; }

    public void setVisibility(int visibility) {}

    public int getVisibility() { return 0; }

    public final int getHeight() { return 0; }

    public final boolean requestFocus() { return true; }

    public boolean canScrollVertically(int direction) { return false; }

    public void scrollTo(int x, int y) {}

    public boolean post(Runnable action) { return true; }

    public void setEnabled(boolean enabled) {}

    public boolean isEnabled() { return false; }
}
