package dev.heliumedge.app

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.widget.TextView
import dev.heliumedge.core.named

private const val PICK_FOLDER = 1

/** The one screen: a bundle, a text or a conversation, what the model makes of it, and how fast. */
class MainActivity : Activity() {
    private var opened: Model? = null
    private var screen: MainScreen? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_main)
        val model = try {
            Model.of(this)
        } catch (error: Throwable) {
            // Without storage there is no model; the user sees at least why.
            findViewById<TextView>(R.id.output).text = Words(applicationContext) { 0 }.error(named(error))
            return
        }
        opened = model
        screen = MainScreen(this, model) { startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK_FOLDER) }
        // An intent is an order for once: a screen that is made anew does not carry it out again.
        if (savedInstanceState == null) take(intent) else model.loading.offerLast()
    }

    override fun onStart() {
        super.onStart()
        screen?.onStart()
    }

    override fun onResume() {
        super.onResume()
        screen?.onResume()
    }

    override fun onStop() {
        super.onStop()
        screen?.onStop()
        // Text that nobody sees costs battery; an import goes on, and so does a screen that is only made anew.
        opened?.let { if (!isChangingConfigurations && !it.importing.isRunning) it.session.stop() }
    }

    override fun onDestroy() {
        super.onDestroy()
        screen?.onDestroy()
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        take(intent)
    }

    @Deprecated("The replacement needs a library that the app does without.")
    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val tree = data?.data ?: return
        val model = opened ?: return
        if (requestCode != PICK_FOLDER || resultCode != RESULT_OK) return
        screen?.guarded {
            if (!begin(model, tree)) throw busy()
            NotificationPermission(this, model.settings).askOnce()
        }
    }

    override fun onRequestPermissionsResult(requestCode: Int, permissions: Array<String>, grantResults: IntArray) {
        opened?.let { NotificationPermission(this, it.settings).answered(requestCode, grantResults) }
    }

    /** With the app's own resolver: an import outlives the screen. */
    private fun begin(model: Model, tree: Uri): Boolean {
        val resolver = applicationContext.contentResolver
        return model.importing.begin(TreeSource(resolver, tree), TreeGrant(resolver, tree))
    }

    private fun take(intent: Intent) {
        val model = opened ?: return
        setIntent(Intent())
        screen?.guarded {
            val again = intent.flags and Intent.FLAG_ACTIVITY_LAUNCHED_FROM_HISTORY != 0
            when (val order = Order.of(intent.component?.className, again) { name -> intent.getStringExtra(name) }) {
                is Order.Look -> model.loading.offerLast()
                is Order.Open -> if (!model.loading.open(order.bundle)) throw busy()
                is Order.Measure -> model.measuring.measure(order) { name -> intent.getStringExtra(name) }
            }
        }
    }
}
