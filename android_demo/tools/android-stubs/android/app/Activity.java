package android.app;

import android.content.ComponentCallbacks2;
import android.content.Context;
import android.content.Intent;
import android.content.res.Configuration;
import android.os.Bundle;
import android.view.LayoutInflater;
import android.view.View;
import android.view.Window;

public class Activity extends Context implements ComponentCallbacks2 {
    public static final int RESULT_OK = -1;

    protected void onCreate(Bundle savedInstanceState) {}

    protected void onNewIntent(Intent intent) {}

    protected void onStart() {}

    protected void onResume() {}

    protected void onStop() {}

    protected void onDestroy() {}

    public boolean isChangingConfigurations() { return false; }

    public void setIntent(Intent newIntent) {}

    @Override
    public Context getApplicationContext() { return null; }

    protected void onActivityResult(int requestCode, int resultCode, Intent data) {}

    @Override
    public void onTrimMemory(int level) {}

    @Override
    public void onLowMemory() {}

    @Override
    public void onConfigurationChanged(Configuration newConfig) {}

    public void setContentView(int layoutResID) {}

    public <T extends View> T findViewById(int id) { return null; }

    public Intent getIntent() { return null; }

    public Window getWindow() { return null; }

    public LayoutInflater getLayoutInflater() { return null; }

    public void startActivityForResult(Intent intent, int requestCode) {}

    public final void requestPermissions(String[] permissions, int requestCode) {}

    public void onRequestPermissionsResult(int requestCode, String[] permissions, int[] grantResults) {}
}
