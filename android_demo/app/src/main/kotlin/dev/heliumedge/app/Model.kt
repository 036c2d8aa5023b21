package dev.heliumedge.app

import android.content.Context
import android.os.Handler
import android.os.Looper
import android.os.Process
import android.system.Os
import dev.heliumedge.core.BundleLoader
import dev.heliumedge.core.BundleStore
import dev.heliumedge.core.ChatState
import dev.heliumedge.core.CrashGuard
import dev.heliumedge.core.HeliumSession
import dev.heliumedge.core.VerificationLog
import java.io.File

/**
 * The one model of the process, and what the screen shows of it. It outlives activities: a rotated, folded or translated
 * screen finds both as they were.
 */
class Model private constructor(context: Context) {
    /** What Android tells of the device. */
    val device = Device(context)

    /** Tells a load that ended the process from one that went well. */
    val guard = CrashGuard(File(context.filesDir, "loading.txt"))

    /** The app's own folder on shared storage, where `helium-edge push` writes; without one, private storage. */
    val folder: File = context.getExternalFilesDir(null) ?: context.filesDir

    /** The bundles in it. */
    val store = BundleStore(File(folder, "bundles").apply { mkdirs() })

    private val loader = BundleLoader(
        Engines.factories, SharedMemoryAllocator, guard, VerificationLog(File(context.filesDir, "verified.txt")), device::availableMemory,
    )

    /** Checks a bundle before it is loaded. */
    val inspect = loader::inspect

    private val main = Handler(Looper.getMainLooper())

    /** The model and its thread. */
    val session = HeliumSession(loader, { Process.setThreadPriority(Process.THREAD_PRIORITY_DISPLAY) }) { main.post(it) }

    /** What the screen shows. */
    val screen = ScreenText(main)

    /** The conversation with the loaded bundle, if there is one. */
    val chat = ChatState()

    companion object {
        private var model: Model? = null

        /** The model; the main thread alone asks for it. */
        fun of(context: Context): Model = model ?: run {
            Os.setenv("ORT_DISABLE_TELEMETRY", "1", false) // before ONNX Runtime is loaded
            Model(context.applicationContext).also { model = it }
        }
    }
}
