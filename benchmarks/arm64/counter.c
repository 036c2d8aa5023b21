// A plugin of QEMU that counts what a program executes between two of its functions: instructions, bytes loaded and
// stored, and the 64-byte lines that were touched, which is what comes from memory where nothing is in a cache.
//
// Arguments: begin=ADDRESS,end=ADDRESS,out=FILE. Each end writes a line: instructions, bytes loaded, bytes stored,
// lines read, lines written. Nothing is counted before the first begin, which makes the emulator translate everything
// anew: what lies between it and the first end is to be ignored.
//
// The declarations are those of version 1 of the interface, of QEMU from 4.2 on; no header of QEMU is needed.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
typedef uint32_t access_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
typedef void (*translated)(plugin_id, struct qemu_plugin_tb*);
typedef void (*executed)(unsigned, void*);
typedef void (*accessed)(unsigned, access_info, uint64_t, void*);
typedef void (*done)(plugin_id);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb*, executed, int, void*);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn*, accessed, int, int, void*);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
extern struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
extern unsigned qemu_plugin_mem_size_shift(access_info);
extern _Bool qemu_plugin_mem_is_store(access_info);
extern void qemu_plugin_reset(plugin_id, done);

#define EXPORTED __attribute__((visibility("default")))
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };
enum { READ = 1, WRITTEN = 2 };

EXPORTED int qemu_plugin_version = 1;

// A translated block: where it starts, and its length.
struct block {
  uint64_t address, instructions;
};

static plugin_id self;
static uint64_t begin, end;
static const char* out;
static int counting, resetting;
static uint64_t instructions, loaded, stored;

// Lines by their number plus one, in a table with open addresses: 4 million, of which no job touches half.
static const uint64_t kSlots = UINT64_C(1) << 22;
static uint64_t* lines;
static uint8_t* how;

static void touch(uint64_t line, uint8_t flag) {
  uint64_t slot = ((line + 1) * UINT64_C(0x9E3779B97F4A7C15)) >> 42;
  while (lines[slot] && lines[slot] != line + 1) slot = (slot + 1) & (kSlots - 1);
  lines[slot] = line + 1;
  how[slot] |= flag;
}

static void on_access(unsigned cpu, access_info info, uint64_t address, void* unused) {
  (void)cpu, (void)unused;
  if (!counting) return;
  const uint64_t bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
  const int store = qemu_plugin_mem_is_store(info);
  *(store ? &stored : &loaded) += bytes;
  for (uint64_t line = address >> 6; line <= (address + bytes - 1) >> 6; ++line) touch(line, store ? WRITTEN : READ);
}

static void finish(void) {
  uint64_t read = 0, written = 0;
  for (uint64_t slot = 0; slot < kSlots; ++slot) {
    read += (how[slot] & READ) != 0;
    written += (how[slot] & WRITTEN) != 0;
  }
  FILE* file = fopen(out, "a");
  if (file) {
    fprintf(file, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", instructions, loaded, stored, read,
            written);
    fclose(file);
  }
  memset(lines, 0, kSlots * sizeof *lines);
  memset(how, 0, kSlots * sizeof *how);
  instructions = loaded = stored = 0;
}

static void on_block(unsigned cpu, void* given) {
  const struct block* block = given;
  (void)cpu;
  if (block->address == begin) {
    counting = 1;
  } else if (block->address == end) {
    if (counting) finish();
    counting = 0;
  } else if (counting) {
    instructions += block->instructions;
  }
}

static void on_translated(plugin_id id, struct qemu_plugin_tb* tb) {
  (void)id;
  struct block* block = malloc(sizeof *block);
  if (!block) abort();
  block->address = qemu_plugin_tb_vaddr(tb);
  block->instructions = qemu_plugin_tb_n_insns(tb);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, NO_REGISTERS, block);
  for (size_t i = 0; i < block->instructions; ++i) {
    qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_access, NO_REGISTERS, READS_AND_WRITES, NULL);
  }
}

static void on_reset(plugin_id id) { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated); }

static void on_first(unsigned cpu, void* unused) {
  (void)cpu, (void)unused;
  if (!resetting) {
    resetting = 1;
    qemu_plugin_reset(self, on_reset);
  }
}

// Until the first begin, of which alone the execution is watched.
static void on_early(plugin_id id, struct qemu_plugin_tb* tb) {
  (void)id;
  if (qemu_plugin_tb_vaddr(tb) == begin) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_first, NO_REGISTERS, NULL);
}

EXPORTED int qemu_plugin_install(plugin_id id, const struct qemu_info_t* info, int count, char** arguments) {
  (void)info;
  self = id;
  for (int i = 0; i < count; ++i) {
    const char* value = strchr(arguments[i], '=');
    if (!value) continue;
    if (!strncmp(arguments[i], "begin=", 6)) begin = strtoull(value + 1, NULL, 16);
    if (!strncmp(arguments[i], "end=", 4)) end = strtoull(value + 1, NULL, 16);
    if (!strncmp(arguments[i], "out=", 4)) out = strdup(value + 1);
  }
  lines = calloc(kSlots, sizeof *lines);
  how = calloc(kSlots, sizeof *how);
  if (!begin || !end || !out || !lines || !how) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_early);
  return 0;
}
