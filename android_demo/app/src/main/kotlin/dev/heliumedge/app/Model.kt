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
import dev.heliumedge.core.Storage
import dev.heliumedge.core.VerificationLog
import java.io.File
import kotlin.concurrent.thread

/**
 * The one model of the process, what it does, and what the screen shows of it. It outlives activities: a translated or
 * darkened screen, and one that is opened anew, find all as it was.
 */
class Model private constructor(context: Context) {
    /** What Android tells of the device. */
    val device = Device(context)

    /** The settings. */
    val settings = SettingsStore(context.getSharedPreferences("settings", Context.MODE_PRIVATE))

    /** What is said, in the language of the moment. */
    val words = Words(context, device::residentBytes)

    private val note = File(context.filesDir, "loading.txt")

    /** Tells a load that ended the process from one that went well. */
    val guard = CrashGuard(note)

    /** The app's own folder on shared storage, where `helium-edge push` writes; without one, private storage. */
    val folder: File = context.getExternalFilesDir(null) ?: context.filesDir

    /** The bundles in it. */
    val store = BundleStore(File(folder, "bundles").apply { mkdirs() })

    private val kept = File(context.filesDir, "reports")

    /** All that takes space. */
    val storage = Storage(store, File(context.filesDir, "caches"), kept)

    /** Reports of answers. They hold what was asked: other apps may read shared storage before Android 11. */
    val reports = Reports(kept)

    /** Which files were found right: an import tells it, so that the load behind it reads nothing again. */
    val verified = VerificationLog(File(context.filesDir, "verified.txt"))

    /** Checks bundles before they are copied or loaded. */
    val loader = BundleLoader(Engines.factories, SharedMemoryAllocator, guard, verified, device::availableMemory)

    private val main = Handler(Looper.getMainLooper())

    /** The model and its thread. */
    val session = HeliumSession(loader, { Process.setThreadPriority(Process.THREAD_PRIORITY_DISPLAY) }) { main.post(it) }

    /** What the screen shows. */
    val screen = ScreenText { block, millis -> main.postDelayed(block, millis) }

    /** What the screen asks. */
    val questions = Questions()

    /** The conversation with the loaded bundle, if there is one. */
    val chat = ChatState()

    init {
        // What a killed import or deletion left may be gigabytes; an import ends it as well.
        thread(name = "recover", isDaemon = true) { runCatching { store.recover() } }
    }

    /** Opens bundles and frees them. */
    val loading = Loading(context, this)

    /** Copies bundles. */
    val importing = Importing(context, this)

    /** Texts, answers, labels. */
    val texts = Texts(context, this)

    /** Benchmarks. */
    val measuring = Measuring(context, this)

    /** Frees the model where the process would end otherwise. */
    val memory = MemoryWatch({ importing.isRunning }, { session.observer != null }, loading::unload)

    /** Why the process ended that was loading the bundle which the [guard] suspects. */
    fun exitReason(): ExitReason = ExitReason.of(device.exits(), note.lastModified())

    companion object {
        private var model: Model? = null

        /** The model; the main thread alone asks for it. */
        fun of(context: Context): Model = model ?: run {
            Os.setenv("ORT_DISABLE_TELEMETRY", "1", false) // before ONNX Runtime is loaded
            val app = context.applicationContext
            Model(app).also {
                model = it
                app.registerComponentCallbacks(it.memory)
            }
        }
    }
}
