/*
 * Stands where libonnxruntime.so.1.17.0 is expected, and gives the C API of the library that ORT_REAL_LIB names.
 *
 * The C API is versioned: an older caller asks a newer library for the table of its own version and gets it. So the
 * Java classes of one release run over the library of another, which is the one that the exporter tested with.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

const void *OrtGetApiBase(void) {
    const char *path = getenv("ORT_REAL_LIB");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    const void *(*real)(void) = library ? (const void *(*)(void))dlsym(library, "OrtGetApiBase") : NULL;
    if (!real) {
        fprintf(stderr, "shim: ORT_REAL_LIB=%s has no OrtGetApiBase: %s\n", path ? path : "(unset)", dlerror());
        abort();
    }
    return real();
}

/* Called by the Java binding only where a test asks for the CPU provider by name; it is always there. */
void *OrtSessionOptionsAppendExecutionProvider_CPU(void *options, int use_arena) {
    (void)options;
    (void)use_arena;
    return NULL;
}
