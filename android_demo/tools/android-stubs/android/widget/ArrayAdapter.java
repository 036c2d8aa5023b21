package android.widget;

import android.content.Context;

public class ArrayAdapter<T> implements SpinnerAdapter {
    public ArrayAdapter(Context context, int resource, T[] objects) {}
}
