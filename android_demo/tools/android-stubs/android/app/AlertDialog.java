package android.app;

import android.content.Context;
import android.content.DialogInterface;
import android.view.View;
import android.widget.Button;

public class AlertDialog implements DialogInterface {
    public Button getButton(int whichButton) { return null; }

    public void dismiss() {}

    public static class Builder {
        public Builder(Context context) {}

        public Builder setTitle(int titleId) { return this; }

        public Builder setMessage(CharSequence message) { return this; }

        public Builder setItems(CharSequence[] items, DialogInterface.OnClickListener listener) { return this; }

        public Builder setView(View view) { return this; }

        public Builder setPositiveButton(int textId, DialogInterface.OnClickListener listener) { return this; }

        public Builder setNegativeButton(int textId, DialogInterface.OnClickListener listener) { return this; }

        public Builder setNeutralButton(int textId, DialogInterface.OnClickListener listener) { return this; }

        public Builder setOnCancelListener(DialogInterface.OnCancelListener onCancelListener) { return this; }

        public Builder setOnDismissListener(DialogInterface.OnDismissListener onDismissListener) { return this; }

        public AlertDialog show() { return null; }
    }
}
