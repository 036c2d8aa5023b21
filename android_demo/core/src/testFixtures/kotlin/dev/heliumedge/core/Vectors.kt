package dev.heliumedge.core

import java.io.File

/** What tools/write_vectors.py wrote; its folder is the system property `helium.vectors`. */
object Vectors {
    val folder: File = File(
        System.getProperty("helium.vectors")
            ?: error("-Dhelium.vectors=FOLDER is not set: run android_demo/check.sh, or tools/write_vectors.py FOLDER first"),
    )

    fun file(path: String): File = File(folder, path)

    fun cases(path: String): List<Case> = (Json.parse(file(path).readText()) as Json.Arr).items.map { Case((it as Json.Obj).fields) }

    fun document(path: String): Case = Case((Json.parse(file(path).readText()) as Json.Obj).fields)

    fun bundle(name: String): File = file("bundles/$name")

    /** A bundle in [folder] that labels texts, by its manifest: its files are those of a language model. */
    fun classifier(folder: File): File {
        bundle("in_place").copyRecursively(folder)
        val text = cases("manifests.json").first { it.text("what") == "a model of the kind token_classification" }.text("text")
        // The seal is looked for at the beginning of a line.
        File(folder, MANIFEST_NAME).writeText(ManifestSeal.seal(text.replace("\"manifest_sha256\"", "\n  \"manifest_sha256\"")))
        return folder
    }
}

/** A JSON object whose fields are known to be there. */
class Case(private val fields: Map<String, Json>) {
    fun text(key: String): String = (fields.getValue(key) as Json.Str).value

    fun textOrNull(key: String): String? = (fields.getValue(key) as? Json.Str)?.value

    fun double(key: String): Double = (fields.getValue(key) as Json.Num).text.toDouble()

    fun int(key: String): Int = (fields.getValue(key) as Json.Num).text.toInt()

    fun flag(key: String): Boolean = (fields.getValue(key) as Json.Bool).value

    fun flags(key: String): List<Boolean> = items(key).map { (it as Json.Bool).value }

    fun has(key: String): Boolean = key in fields

    fun document(key: String): Case = Case((fields.getValue(key) as Json.Obj).fields)

    fun json(key: String): Json = fields.getValue(key)

    fun items(key: String): List<Json> = (fields.getValue(key) as Json.Arr).items

    fun cases(key: String): List<Case> = items(key).map { Case((it as Json.Obj).fields) }

    fun ints(key: String): List<Int> = items(key).ints()

    fun intsOrNull(key: String): List<Int>? = (fields.getValue(key) as? Json.Arr)?.items?.ints()

    fun doubles(key: String): List<Double> = items(key).map { (it as Json.Num).text.toDouble() }

    fun texts(key: String): List<String> = items(key).map { (it as Json.Str).value }

    fun table(key: String): List<List<Int>> = items(key).map { (it as Json.Arr).items.ints() }

    private fun List<Json>.ints(): List<Int> = map { (it as Json.Num).text.toInt() }
}
