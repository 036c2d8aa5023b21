package dev.heliumedge.core

import java.util.Locale

/**
 * What users may be told, by name: an app has a text for each in every language that it speaks, with the same values at
 * the same numbers. What only helps to find a fault, as a field of a damaged manifest, is no phrase and stays English.
 */
public enum class Phrase(internal val english: String) {
    // What is wrong.
    MEMORY_NEEDED("the bundle needs %1\$s of memory, %2\$s are free"),
    NO_BUFFER("no memory for a buffer of %1\$d bytes (%2\$s)"),
    HEAP_FULL("the app's own memory is used up (%1\$s)"),
    PROMPT_TOO_LONG("the prompt has %1\$d tokens, the context %2\$d"),
    TURN_TOO_LONG("the last turn has %1\$d tokens, the KV cache has room for %2\$d and an answer"),
    TOKENS_DO_NOT_FIT("%1\$d tokens do not fit: the KV cache has %2\$d slots, %3\$d are taken"),
    NO_TOKENS("no tokens to run"),
    NO_TEXT("there is no text to answer"),
    NO_ANSWER("there is no answer yet that could be given again"),
    NO_MESSAGE("there is no message yet that could be changed"),
    BUSY("the model is busy"),
    NOT_LOADED("no bundle is loaded"),
    NO_TEMPLATE("%1\$s has no chat template: its checkpoint is no fine-tune for conversations"),
    JINJA_ONLY("%1\$s has a chat template that only Jinja can render: %2\$s"),
    NO_SYSTEM_MESSAGE("the chat template of this model takes no system message"),
    BAD_UNICODE("the text is not valid Unicode at character %1\$d"),
    SPELLS_SPECIAL("the text spells a special token for which the vocabulary has no other pieces"),
    UNKNOWN_TOKEN("the text spells a special token that the model does not know (id %1\$d; it has %2\$d tokens)"),
    TEXT_TOO_COMPLEX("the tokenizer takes too long for this text of %1\$d characters"),
    CLASSIFIES("%1\$s classifies text"),
    CLASSIFIER_WIDTH("%1\$d tokens do not fit a classifier of %2\$d"),
    NO_PADDING("the model has no padding token, so that a text must have exactly %1\$d tokens"),
    NO_LABELS("%1\$s returns no labels and no text"),
    OTHER_RUNTIME_WANTED("%1\$s is made for %2\$s, and the settings ask for %3\$s"),
    NO_SUCH_RUNTIME("%1\$s is made for %2\$s; this app has %3\$s"),
    APPLE_ONLY("%1\$s is made for CoreML, which runs on Apple's systems alone"),
    UNPLANNED_OUTPUTS("%1\$s has no memory of its own for what it returns"),
    OLD_RUNTIME("%1\$s needs %2\$s %3\$s or newer, this app has %4\$s"),
    TOKENIZER_KIND("tokenizers of the kind %1\$s are not implemented; this app has %2\$s"),
    NEWER_BUNDLE("the bundle has schema version %1\$s, and this app reads %2\$d.x"),
    OLDER_BUNDLE("the bundle has schema version %1\$s, which is no longer read; this app reads %2\$d.x"),
    FILE_MISSING("%1\$s is missing (%2\$d bytes)"),
    FILE_TRUNCATED("%1\$s is truncated: %2\$d bytes, listed %3\$d"),
    FILE_LONGER("%1\$s has %2\$d bytes, listed %3\$d"),
    FILE_CHANGED("%1\$s was changed: its sha256 is not the one listed"),
    NO_FOLDER("%1\$s is no folder"),
    NO_MANIFEST("%1\$s holds no helium-edge.json"),
    SOURCE_NO_MANIFEST("the folder holds no helium-edge.json"),
    NO_SPACE("%1\$d bytes of the bundle are still to be copied (%2\$d in all), %3\$d are free"),
    CANNOT_READ("%1\$s cannot be read: %2\$s"),
    CANNOT_WRITE("%1\$s cannot be written: %2\$s"),
    CANNOT_DELETE("%1\$s cannot be deleted"),
    IMPORT_RUNS("%1\$s is being imported"),
    CANNOT_COPY("%1\$s cannot be copied: %2\$s"),
    PROVIDER_FAILED("%1\$s cannot be copied: the app that has the folder failed (%2\$s)"),
    NOT_ALLOWED("%1\$s is there, and this app may not read it"),
    SOURCE_MISSING("%1\$s is missing in the chosen folder"),
    SOURCE_DAMAGED("%1\$s in the chosen folder is not the file that its helium-edge.json lists"),
    SOURCE_LONGER("%1\$s in the chosen folder has more than the listed %2\$d bytes"),
    CACHE_EMPTY("there is nothing to keep, the cache is empty"),
    NO_KEPT_CACHE("no cache of this bundle is kept (%1\$s is missing)"),
    NO_GOLDEN("%1\$s has no golden trace"),
    BENCHMARK_TOO_LONG("a benchmark of %1\$d and %2\$d tokens does not fit a cache of %3\$d slots"),
    OUT_OF_RANGE("%1\$s is out of range"),
    NO_TOKEN_LEFT("repetition penalty, n-gram size and suppressed tokens leave no token to choose"),
    UNEXPECTED("unexpected: %1\$s"),
    TEST_PASSED("passed: %1\$d choices as recorded, %2\$d of them near ties"),
    TEST_FAILED("failed: %1\$s. Do not ship this pair of bundle and device"),
    TEST_STOPPED("stopped after %1\$d choices"),

    // What to do about it.
    CHOOSE_EXPORT("Choose a folder that `helium-edge export` wrote; it holds a helium-edge.json."),
    EXPORT_OR_PUSH("Export the checkpoint again, or push the bundle again."),
    UPDATE_APP("Update this app, or export with an older helium-edge."),
    EXPORT_CURRENT("Export the checkpoint again with a current helium-edge."),
    DO_NOT_USE("Do not use this bundle: no export writes such a path. Take it from a source you trust."),
    PUSH_MISSING("Push the bundle again: helium-edge push BUNDLE sends what is missing."),
    PUSH_DAMAGED("Push the bundle again: helium-edge push BUNDLE replaces what is damaged."),
    PUSH_OR_UPDATE("Push the bundle again; if it persists, update the app: its ONNX Runtime may be older than the exporter's."),
    FREE_MEMORY("Close other apps, or export with a smaller cache: helium-edge export --cache-len N."),
    TOKENIZER_SUPPORT("Export the checkpoint again; if it persists, the tokenizer needs support in this app."),
    OTHER_TOKENIZER("Choose a bundle with another tokenizer, or update this app."),
    SAVE_CACHE_AGAIN("Save the cache again, with this bundle."),
    SHORTEN("Shorten the prompt, start a new text, or export with a larger --cache-len."),
    FILES_APART("The bundle's files do not belong together: export and push it again."),
    RUN_SELF_TEST("Run the self-test; `helium-edge parity BUNDLE` tells whether the export is at fault."),
    CHECK_STORAGE("Check the free space and that the folder still exists, then try again."),
    COPY_REPORT("Copy the report and send it to who gave you the app; loading the bundle again may help."),
    VERIFY("Load the bundle again; if it persists, verify it: helium-edge verify BUNDLE."),
    LOAD_AGAIN("Load the bundle again; if it persists, report it with its copy."),
    OTHER_BUILD("Install the app build for this processor: arm64-v8a or x86_64."),
    UPDATE_FOR_OPERATOR("Update the app: its runtime lacks an operator of this bundle."),
    UPDATE_FOR_BACKEND("Update the app: its runtime is older than the exporter's, or lacks the backend of this bundle."),
    CHOOSE_RUNTIME("Choose the runtime \"as the bundle says\" in the settings, or another bundle."),
    INSTALL_FULL("Install the flavour \"full\" of the app, or export for a runtime that it has."),
    UPDATE_OR_PLAIN_CACHE("Update the app, or export with a recipe without kv_cache: int8."),
    UPDATE_OR_MIN_RUNTIME("Update the app, or export with a recipe with an older min_runtime."),
    EXPORT_TARGET("Export with a recipe of the target %1\$s."),
    WRITE_SOMETHING("Write at least one character."),
    WRITE_FIRST("Write a message first."),
    WAIT_OR_STOP("Wait for it, or stop it."),
    OPEN_FIRST("Open one first."),
    CONTINUE_INSTEAD("Let it continue a text instead."),
    OTHER_TEMPLATE("Use a bundle whose template can be said as data."),
    LEAVE_OUT("Leave the system message empty, and begin a new conversation."),
    DELETE_CHARACTER("Delete that character and try again."),
    TAKE_OUT("Take it out of the text."),
    SHORTEN_OR_VARY("Shorten the text, or change what repeats in it."),
    CHOOSE_TEXT_MODEL("Choose a bundle of a text model."),
    CHOOSE_CLASSIFIER("Choose a bundle of a text model or of a classifier."),
    SHORTEN_TO("Allowed: 1 to %1\$d; shorten the text."),
    LENGTHEN("Lengthen the text, or choose another bundle."),
    RUN_FIRST("Run a prompt first."),
    MILDER("Use milder values."),
    ALLOWED_FROM("Allowed: %1\$s and above."),
    ALLOWED_IN_ALL("Allowed: 1 and above, %1\$d tokens in all."),
    ALLOWED_ABOVE("Allowed: above %1\$s."),
    ALLOWED_ABOVE_TO("Allowed: above %1\$s, up to %2\$s."),
    ALLOWED_BETWEEN("Allowed: %1\$s to %2\$s."),
    ALLOWED_WHOLE("Allowed: whole numbers from 0 on."),
    ALLOWED_NUMBERS("Allowed: numbers."),
    ALLOWED_IDS("Allowed: whole numbers with blanks between them."),
    ALLOWED_RUNTIMES("Allowed: %1\$s, or nothing."),
    ;

    /** The phrase with its values. */
    public fun with(vararg values: Any): Said = Said(this, values.asList(), String.format(Locale.ROOT, english, *values))
}

/**
 * Something to tell a user.
 *
 * @property phrase What it says in any language; null for a detail that is English alone.
 * @property values What stands in the phrase.
 * @property text The whole of it in English.
 */
public class Said internal constructor(public val phrase: Phrase?, public val values: List<Any>, public val text: String) {
    /** A detail that is English alone. */
    public constructor(text: String) : this(null, emptyList(), text)

    override fun toString(): String = text
}
