package android.widget;

import android.view.View;

public class Spinner extends View {
    public SpinnerAdapter getAdapter() { return null; }

    public void setAdapter(SpinnerAdapter adapter) {}

    public void setSelection(int position) {}

    public int getSelectedItemPosition() { return 0; }
}
