package android.app;

import android.content.Context;

public class Notification {
    public static class Builder {
        public Builder(Context context, String channelId) {}

        public Builder setSmallIcon(int icon) { return this; }

        public Builder setContentTitle(CharSequence title) { return this; }

        public Builder setContentIntent(PendingIntent intent) { return this; }

        public Builder setProgress(int max, int progress, boolean indeterminate) { return this; }

        public Builder setOnlyAlertOnce(boolean onlyAlertOnce) { return this; }

        public Builder setOngoing(boolean ongoing) { return this; }

        public Notification build() { return null; }
    }
}
