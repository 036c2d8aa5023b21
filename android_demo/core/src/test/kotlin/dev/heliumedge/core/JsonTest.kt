package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Test

class JsonTest {
    @Test
    fun `documents read as they are written`() {
        val root = Json.parse(" {\"a\": [1, -2.5e3, true, false, null], \"b\\n\\u00e9\\ud83d\\ude00\": {}} \n") as Json.Obj
        assertEquals(listOf("a", "b\né😀"), root.fields.keys.toList())
        assertEquals("-2.5e3", ((root.fields.getValue("a") as Json.Arr).items[1] as Json.Num).text)
    }

    @Test
    fun `what is no JSON is refused with its line`() {
        val bad = listOf("", "{", "[1,]", "{\"a\":1,}", "{a:1}", "01", "1.", ".5", "+1", "NaN", "tru", "\"\\x\"", "\"\\u12g4\"", "\"a\nb\"", "[1] 2", "{\"a\":1,\"a\":2}", "'a'", "[1 2]", "[".repeat(200))
        for (text in bad) assertFails<JsonException> { Json.parse(text) }
        assertEquals("line 3: a value is expected", assertFails<JsonException> { Json.parse("[1,\n2,\nx]") }.message)
    }

    @Test
    fun `what is written can be read`() {
        val text = JsonWriter().obj {
            field("text", "a\"\\\n\u0001é😀")
            array("list") { field(null, 1); field(null, 2.5); field(null, null); obj { field("x", Double.NaN) } }
            obj("empty") {}
        }.toString()
        val root = Json.parse(text) as Json.Obj
        assertEquals("a\"\\\n\u0001é😀", (root.fields.getValue("text") as Json.Str).value)
        assertEquals(4, (root.fields.getValue("list") as Json.Arr).items.size)
    }
}
