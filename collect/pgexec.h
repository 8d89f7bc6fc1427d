// Following exec: the guest's execve becomes an execve of qemu with this plugin and the guest's program.
//
// Included by pgtrace.c once. Resolves '#!' as Linux does. A program that is not for x86-64, or that the host
// refuses, is left to qemu, which returns the error or runs it natively; the latter is counted (`untraced`).
#ifndef KDTOOL_PGEXEC_H
#define KDTOOL_PGEXEC_H

#define SCRIPT_DEPTH 5                         // as fs/exec.c: exec_binprm()
#define SCRIPT_HEAD 256                        // as include/uapi/linux/binfmts.h: BINPRM_BUF_SIZE

typedef struct { char **item; size_t n, max; } strings_t;

static void add_string(strings_t *list, char *string) {
    if (list->n == list->max && !(list->item = realloc(list->item, (list->max = 2 * list->max + 64) * sizeof(char *))))
        die("out of memory");
    list->item[list->n++] = string;
}

static char *peek_string(uint64_t from) {
    size_t n = 0;
    char *copy = NULL;
    for (;;) {
        size_t part = PAGE_MASK + 1 - ((from + n) & PAGE_MASK);
        if (!(copy = realloc(copy, n + part))) die("out of memory");
        if (!peek(copy + n, from + n, part)) { free(copy); return NULL; }
        if (memchr(copy + n, 0, part)) return copy;
        n += part;
    }
}

static bool peek_strings(uint64_t from, strings_t *list) {
    uint64_t pointer;
    for (; from; from += sizeof pointer) {
        if (!peek(&pointer, from, sizeof pointer)) return false;
        if (!pointer) break;
        char *string = peek_string(pointer);
        if (!string) return false;
        add_string(list, string);
    }
    return true;
}

// Return what follows `#!` in words[0] (the interpreter) and words[1] (its one argument, or NULL).
static bool script_words(char *head, char *words[2]) {
    if (head[0] != '#' || head[1] != '!') return false;
    head[strcspn(head, "\n")] = 0;
    words[0] = head + 2 + strspn(head + 2, " \t");
    words[1] = words[0] + strcspn(words[0], " \t");
    if (*words[1]) *words[1]++ = 0;
    words[1] += strspn(words[1], " \t");
    for (char *end = words[1] + strlen(words[1]); end > words[1] && (end[-1] == ' ' || end[-1] == '\t');) *--end = 0;
    if (!*words[1]) words[1] = NULL;
    return *words[0] != 0;
}

// Resolve scripts: argv gets its interpreters in front. Returns the ELF program for x86-64 to run, or NULL.
static const char *resolve_program(const char *program, strings_t *argv) {
    for (int depth = 0; depth < SCRIPT_DEPTH; depth++) {
        char head[SCRIPT_HEAD + 1] = {0}, *words[2];
        int fd = open(program, O_RDONLY | O_CLOEXEC);
        ssize_t length = fd < 0 ? -1 : read(fd, head, SCRIPT_HEAD);
        if (fd >= 0) close(fd);
        if (length < 4 || access(program, X_OK)) return NULL;
        const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
        if (!memcmp(head, ELFMAG, SELFMAG))
            return head[EI_CLASS] == ELFCLASS64 && elf->e_machine == EM_X86_64 ? program : NULL;
        if (!script_words(head, words)) return NULL;
        strings_t longer = {0};
        add_string(&longer, strdup(words[0]));
        if (words[1]) add_string(&longer, strdup(words[1]));
        add_string(&longer, strdup(program));
        for (size_t i = 1; i < argv->n; i++) add_string(&longer, argv->item[i]);
        *argv = longer;
        program = longer.item[0];
    }
    return NULL;
}

// Variables of the dynamic linker are the guest's: handed over by -E, which takes no comma, they leave qemu alone.
static bool for_guest_only(const char *variable) {
    return (!strncmp(variable, "LD_PRELOAD=", 11) || !strncmp(variable, "LD_LIBRARY_PATH=", 16) ||
            !strncmp(variable, "LD_AUDIT=", 9)) && !strchr(variable, ',');
}

// Returns only if the program has to be left to qemu. What it allocates is lost then: execs that fail are rare.
static void follow_exec(thread_t *t, uint64_t path, uint64_t arguments, uint64_t environment) {
    strings_t argv = {0}, given = {0}, envp = {0}, command = {0};
    char options[3 * PATH_MAX + 128], *name = peek_string(path);
    if (!name || !peek_strings(arguments, &argv) || !peek_strings(environment, &given)) return;
    if (!strcmp(name, "/proc/self/exe")) name = (char *)qemu_plugin_path_to_binary();
    if (!argv.n) add_string(&argv, name);
    const char *program = resolve_program(name, &argv);
    if (!program) return;
    snprintf(options, sizeof options, "%s,state=%s,spool=%s,self=%s,image=1,holder=%d,insns=%lu", self_path, state_path,
             spool_path, self_path, t->tid, (unsigned long)t->insns);
    char *const front[] = {"qemu-x86_64", "-plugin", options, "-0", argv.item[0]};
    for (size_t i = 0; i < sizeof front / sizeof *front; i++) add_string(&command, front[i]);
    for (size_t i = 0; i < given.n; i++) {
        bool guest_only = for_guest_only(given.item[i]);
        if (guest_only) add_string(&command, "-E");
        add_string(guest_only ? &command : &envp, given.item[i]);
    }
    add_string(&command, (char *)program);
    for (size_t i = 1; i < argv.n; i++) add_string(&command, argv.item[i]);
    add_string(&command, NULL);
    add_string(&envp, NULL);
    lock(t->tid);                              // no other thread of this process may die with it; see `holder`
    execve("/proc/self/exe", command.item, envp.item);
    unlock();
}
#endif
