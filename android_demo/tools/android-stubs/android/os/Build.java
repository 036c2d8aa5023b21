package android.os;

public class Build {
    public static final String MANUFACTURER = "";
    public static final String MODEL = "";
    public static final String[] SUPPORTED_ABIS = {};

    public static class VERSION {
        public static final int SDK_INT = Integer.parseInt("28");
        public static final String RELEASE = "";
    }

    public static class VERSION_CODES {
        public static final int Q = 29;
        public static final int R = 30;
        public static final int TIRAMISU = 33;
    }
}
