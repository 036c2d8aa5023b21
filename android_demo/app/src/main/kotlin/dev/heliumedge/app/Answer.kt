package dev.heliumedge.app

import dev.heliumedge.core.GenerationDefaults
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.Settings

/**
 * How a text that is shown was made: what it takes to see it again.
 *
 * @property manifest sha256 of the bundle's manifest.
 * @property prompt The text that it continues, or the message that it answers.
 * @property settings What the user had chosen, with the seed that was drawn from.
 * @property inForce What held, the bundle's own values among it.
 */
class Answer(
    val bundle: String,
    val engine: String,
    val manifest: String,
    val prompt: String,
    val settings: Settings,
    val inForce: GenerationDefaults,
) {
    companion object {
        /** Of a bundle that is about to answer. */
        fun by(ready: LoadedBundle, prompt: String, settings: Settings): Answer = Answer(
            ready.manifest.name, ready.engineName, ready.bundle.manifestSha256(), prompt, settings,
            settings.generation.applyTo(ready.manifest.generation),
        )
    }
}
