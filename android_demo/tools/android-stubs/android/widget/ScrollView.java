package android.widget;

public class ScrollView extends FrameLayout {}
