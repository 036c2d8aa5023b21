package org.pytorch.executorch.annotations

@Retention(AnnotationRetention.BINARY)
annotation class Experimental
