package dev.heliumedge.app

import android.content.Context
import dev.heliumedge.core.BundleImporter
import dev.heliumedge.core.BundleSource
import dev.heliumedge.core.StopSignal
import java.io.File

/** Copies a bundle and loads it; another app may be in front meanwhile, and the screen off. */
class Importing(private val context: Context, private val model: Model) {
    private val session = model.session
    private val screen = model.screen

    /** Whether a bundle is being copied, or loaded behind that: both go on in the background. */
    @Volatile
    var isRunning = false
        private set

    /**
     * Begins an import.
     *
     * @param grant The right to read the source.
     * @return False where there is work already, and nothing was done.
     */
    fun begin(source: BundleSource, grant: Hold): Boolean {
        if (session.isBusy) return false
        val awake = Awake(context)
        val holds = Holds(listOf(grant, service, awake))
        holds.take()
        isRunning = true
        screen.say(context.getString(R.string.importing))
        val started = session.start { stop ->
            try {
                val folder = copy(source, stop, awake)
                if (folder == null) model.loading.stopped() else use(folder, stop)
            } finally {
                isRunning = false
                show { holds.release() }
                giveBack()
            }
        }
        if (!started) {
            isRunning = false
            holds.release()
        }
        return started
    }

    private fun copy(source: BundleSource, stop: StopSignal, awake: Awake): File? {
        val shown = model.loading.progress(R.string.copied, stop) { ImportService.progress(it) }
        val copied = { done: Long, total: Long ->
            // By bytes: one percent of a large bundle may take longer than the processor is kept awake.
            awake.renew()
            giveBack()
            shown(done, total)
        }
        return BundleImporter(model.store, model.verified, model.loader::check).import(source, { needed -> model.device.freeBytes(model.folder, needed) }, copied)
    }

    /** Frees the model that an import does not need, where the system asked for memory while it copied. */
    private fun giveBack() {
        if (model.memory.owes() && session.loaded != null) model.loading.free()
    }

    /**
     * Loads the copy, where somebody waits for it. Otherwise the process would take gigabytes while nobody needs them,
     * which is when the system ends processes, and the bundle would be blamed for it.
     */
    private fun use(folder: File, stop: StopSignal) {
        model.settings.lastBundle = folder.name
        val imported = context.getString(R.string.imported, folder.name)
        show {
            screen.stats(imported)
            screen.say(imported)
        }
        if (session.observer != null) {
            show { ImportService.loads() }
            model.loading.load(folder, stop, model.settings.load(), anyway = false)
        } else if (session.loaded == null) {
            show { screen.facts(context.getString(R.string.last_bundle, folder.name)) }
        }
    }

    private val service = object : Hold {
        override fun take() = ImportService.begin(context)

        override fun release() = ImportService.end()
    }

    private fun show(block: () -> Unit) = session.deliver(block)
}
