package dev.heliumedge.app

import android.os.Handler
import android.os.Looper
import android.os.Process
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.StopSignal
import java.util.concurrent.Executors

/** The one thread that touches the runtime; one task at a time, and each can be stopped. */
class EngineThread(private val onState: (busy: Boolean) -> Unit, private val onError: (HeliumException) -> Unit) {
    private val main = Handler(Looper.getMainLooper())
    private val worker = Executors.newSingleThreadExecutor { task ->
        Thread({
            Process.setThreadPriority(Process.THREAD_PRIORITY_DISPLAY)
            task.run()
        }, "engine")
    }

    /** The stop signal of the task that runs; touched by the main thread alone. */
    private var running: StopSignal? = null

    /** Whether a task runs. */
    val isBusy: Boolean get() = running != null

    /** Runs a task, unless one runs already. */
    fun start(task: (StopSignal) -> Unit) {
        if (isBusy) return
        val stop = StopSignal()
        running = stop
        onState(true)
        worker.execute {
            val error = try {
                task(stop)
                null
            } catch (error: HeliumException) {
                error
            }
            main.post {
                running = null
                onState(false)
                error?.let(onError)
            }
        }
    }

    /** Ends the task that runs, within one token. */
    fun stop() {
        running?.request()
    }

    /** Runs on the main thread. */
    fun show(block: () -> Unit) {
        main.post(block)
    }

    /** Runs after what is queued, then ends the thread. */
    fun finish(last: () -> Unit) {
        stop()
        worker.execute(last)
        worker.shutdown()
    }
}
