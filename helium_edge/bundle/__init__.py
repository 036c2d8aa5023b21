"""The bundle: manifest, atomic publishing, verification, golden trace and companion files."""

from helium_edge.bundle.card import read_checkpoint_card, write_card
from helium_edge.bundle.chat_section import ChatSection
from helium_edge.bundle.companions import (
    Companions,
    check_companions,
    generation_defaults,
    tokenizer_facts,
    write_companions,
)
from helium_edge.bundle.genai import GENAI_GRAPH, beyond_genai, write_genai_config
from helium_edge.bundle.golden import GoldenCheck, GoldenTrace, check_golden, record_golden, record_steadiest
from helium_edge.bundle.graph_sections import CacheScalesSection, CacheSection, GraphEntry
from helium_edge.bundle.manifest import MANIFEST_NAME, Manifest, read_manifest
from helium_edge.bundle.sections import (
    CalibrationSection,
    CreatedBy,
    FileEntry,
    GenerationSection,
    MemorySection,
    ModelSection,
    OutputSection,
    QuantizationSection,
    SourceSection,
    TargetSection,
    TokenizerSection,
    TokensSection,
)
from helium_edge.bundle.source import peek_bundle, resolve_bundle
from helium_edge.bundle.verify import Bundle, Check, check_pin, manifest_hash, open_bundle, verify_bundle
from helium_edge.bundle.writer import BundleWriter, check_output

__all__ = [
    # opening and checking
    "Bundle", "Check", "check_pin", "manifest_hash", "open_bundle", "peek_bundle", "resolve_bundle",
    "verify_bundle",
    # writing
    "GENAI_GRAPH", "BundleWriter", "Companions", "beyond_genai", "check_companions", "check_output",
    "generation_defaults", "read_checkpoint_card", "tokenizer_facts", "write_card", "write_companions",
    "write_genai_config",
    # the manifest
    "MANIFEST_NAME", "Manifest", "read_manifest", "CacheScalesSection", "CacheSection", "CalibrationSection",
    "ChatSection", "CreatedBy", "FileEntry", "GenerationSection", "GraphEntry", "MemorySection", "ModelSection",
    "OutputSection", "QuantizationSection", "SourceSection", "TargetSection", "TokenizerSection", "TokensSection",
    # the golden trace
    "GoldenCheck", "GoldenTrace", "check_golden", "record_golden", "record_steadiest",
]  # fmt: skip
