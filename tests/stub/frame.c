/* What the environment and the file of orders say, what every call does first, and the library itself. */
#include "stub.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct nvmlDevice_st gpus[MAX_GPUS], migs[MAX_GPUS][MIGS];
int mig_mode;
unsigned pids[MAX_PIDS], pid_count;
double frozen;
const char *control_path;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
struct xid xids[XIDS];
unsigned xid_count;

static struct count uncounted;
struct count *count = &uncounted;

/* Two, so that new orders come into force all at once. */
static struct orders {
    unsigned gpus, fail, latency_us, busy_us;
    unsigned char hang[MAX_GPUS], lost[MAX_GPUS];
} orders_table[2];
static _Atomic(struct orders *) orders = &orders_table[0];

static unsigned gpus_at_start = 1;
static atomic_uint initialised; /* of this process alone; the file may be shared by several */
static struct stat control_seen;

__attribute__((constructor)) static void configure(void)
{
    const char *text;
    if ((text = getenv("NVML_STUB_GPUS")) != NULL)
        gpus_at_start = (unsigned)atoi(text) > MAX_GPUS ? MAX_GPUS : (unsigned)atoi(text);
    orders_table[0].gpus = gpus_at_start;
    if ((text = getenv("NVML_STUB_MIG")) != NULL)
        mig_mode = atoi(text);
    if ((text = getenv("NVML_STUB_CLOCK")) != NULL)
        frozen = atof(text);
    text = getenv("NVML_STUB_PIDS");
    for (int used; text && pid_count < MAX_PIDS && sscanf(text, "%u%n", &pids[pid_count], &used) == 1; text += used)
        pid_count++;
    control_path = getenv("NVML_STUB_CONTROL");
    if ((text = getenv("NVML_STUB_COUNT")) != NULL) {
        int file = open(text, O_RDWR | O_CREAT, 0600);
        if (file < 0 || ftruncate(file, sizeof *count) < 0)
            abort(); /* a test that cannot count must not pass */
        count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (count == MAP_FAILED)
            abort();
        close(file);
    }
    for (unsigned i = 0; i < MAX_GPUS; i++) {
        gpus[i] = (struct nvmlDevice_st){i, -1};
        for (int j = 0; j < MIGS; j++)
            migs[i][j] = (struct nvmlDevice_st){i, j};
    }
}

/* ---- orders, and what every call does first ---- */

static void read_order(const char *line, struct orders *out)
{
    char order[32];
    unsigned a = 0, b = 0;
    int words = sscanf(line, "%31s %u %u", order, &a, &b);
    if (words < 1)
        return;
    if (!strcmp(order, "hang") && a < MAX_GPUS)
        out->hang[a] = 1;
    else if (!strcmp(order, "lost") && a < MAX_GPUS)
        out->lost[a] = 1;
    else if (!strcmp(order, "gpus") && a <= MAX_GPUS)
        out->gpus = a;
    else if (!strcmp(order, "fail"))
        out->fail = a;
    else if (!strcmp(order, "mismatch"))
        out->fail = NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    else if (!strcmp(order, "latency_us"))
        out->latency_us = a;
    else if (!strcmp(order, "busy_us"))
        out->busy_us = a;
    else if (!strcmp(order, "xid") && words == 3)
        xids[xid_count++ % XIDS] = (struct xid){a, b};
    else {
        fprintf(stderr, "NVML_STUB_CONTROL: no such order: %s\n", line);
        abort(); /* a misspelt order must not pass for one that had no effect */
    }
}

void obey(void)
{
    struct stat seen;
    if (!control_path || stat(control_path, &seen))
        return;
    pthread_mutex_lock(&lock);
    if (seen.st_ino != control_seen.st_ino || seen.st_size != control_seen.st_size ||
        seen.st_mtim.tv_sec != control_seen.st_mtim.tv_sec || seen.st_mtim.tv_nsec != control_seen.st_mtim.tv_nsec) {
        struct orders *next = orders == &orders_table[0] ? &orders_table[1] : &orders_table[0];
        char line[128];
        FILE *file = fopen(control_path, "re");
        *next = (struct orders){.gpus = gpus_at_start};
        while (file && fgets(line, sizeof line, file))
            read_order(line, next);
        if (file)
            fclose(file);
        control_seen = seen;
        orders = next;
    }
    pthread_mutex_unlock(&lock);
}

unsigned gpu_count(void) { return orders->gpus; }
nvmlReturn_t failing(void) { return orders->fail; }

/* Account for one call and spend its time; what it answers is an error, or 0. */
nvmlReturn_t enter(void)
{
    count->calls++;
    obey();
    struct orders *o = orders;
    if (o->latency_us)
        sleep_us(o->latency_us);
    if (o->busy_us)
        for (double end = monotonic() + o->busy_us * 1e-6; monotonic() < end;)
            ;
    if (o->fail)
        return o->fail;
    return initialised ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

int is_gpu(nvmlDevice_t d) { return d >= gpus && d < gpus + MAX_GPUS; }
int is_mig(nvmlDevice_t d) { return mig_mode && d >= &migs[0][0] && d < &migs[0][0] + MAX_GPUS * MIGS; }

/* This is where a hung GPU holds its caller. */
nvmlReturn_t reach(nvmlDevice_t d)
{
    if (!is_gpu(d) && !is_mig(d))
        return NVML_ERROR_INVALID_ARGUMENT;
    while (orders->hang[d->gpu]) {
        sleep_us(10000); /* soon enough to be let go, seldom enough to cost nothing */
        obey();
    }
    return orders->lost[d->gpu] || d->gpu >= gpu_count() ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

nvmlReturn_t text(char *out, unsigned length, const char *format, unsigned a, unsigned b)
{
    WANT(out);
    int needed = snprintf(out, length, format, a, b);
    return needed < (int)length ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

/* ---- the library ---- */

nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    count->calls++;
    obey();
    TRY(failing());
    initialised++;
    count->initialised++;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlShutdown(void)
{
    TRY(enter());
    initialised--;
    count->initialised--;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

const char *nvmlErrorString(nvmlReturn_t code)
{
    switch (code) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

SYSTEM_TEXT(nvmlSystemGetDriverVersion, "580.65.06")
SYSTEM_TEXT(nvmlSystemGetNVMLVersion, "13.580.65.06")

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *out) { TRY(enter()); WANT(out); *out = 13000; return NVML_SUCCESS; }
SAME(nvmlSystemGetCudaDriverVersion_v2, nvmlSystemGetCudaDriverVersion, (int *out), (out))

nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *out, unsigned length)
{
    TRY(enter());
    return text(out, length, "/usr/bin/stub-process-%u", pid, 0);
}
