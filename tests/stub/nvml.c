/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1: made-up GPUs behind the real binary interface.
 *
 * It is compiled against NVIDIA's own header, so the compiler checks every prototype and every structure; what a client
 * lays out differently then shows as a wrong number or a refused version. It takes nothing from gpumon or nvidia-ml-py.
 * Functions it lacks are missing symbols, as in a driver that is older or newer than its client.
 *
 * Readings differ per GPU, follow one load curve (power, heat, clocks and use rise and fall together) and agree with
 * each other: energy is the exact integral of power, the sample buffer holds the same use that is reported as current.
 *
 * Environment, read when the library is loaded:
 *   NVML_STUB_GPUS     number of GPUs, 1 unless told, MAX_GPUS at most
 *   NVML_STUB_MIG      1: every GPU is in MIG mode, with MIGS devices
 *   NVML_STUB_PIDS     "pid pid …": compute processes; the n-th runs on GPU n modulo the number of GPUs
 *   NVML_STUB_CLOCK    Unix seconds at which its clock stands still, so that every reading can be foretold
 *   NVML_STUB_COUNT    file to count calls in while the library is in use: five native 64-bit numbers, see struct count
 *   NVML_STUB_CONTROL  file of orders, looked at before every call; one order a line, all withdrawn when the line goes:
 *     hang GPU          calls for the GPU do not return
 *     lost GPU          the GPU has fallen off the bus
 *     xid GPU CODE      the GPU reports this XID, once each time the file is written anew
 *     gpus N            from now on there are N GPUs
 *     fail CODE         every call answers this nvmlReturn_t, initialisation too
 *     mismatch          fail 18, a library that does not fit the driver
 *     latency_us N      every call sleeps for so long
 *     busy_us N         every call computes for so long
 */
#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS /* declare the old names too: this library has to export them */
#include <nvml.h>

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_GPUS = 64, MIGS = 2, LINKS = 18, FANS = 2, MAX_PIDS = 256, XIDS = 64 };

#define GIB (1ULL << 30)
#define BOOT 1735689600.0 /* 2025-01-01, Unix seconds: when the driver was loaded and its counters began */
#define PERIOD 60.0       /* seconds: of the load curve */
#define SAMPLE_US 166667  /* microseconds between entries of the sample buffer: 1/6 s, the shortest that NVML promises */
#define SAMPLES 120       /* entries that buffer holds: 20 s */

/* The header leaves these open; only pointers to them cross the interface. */
struct nvmlDevice_st { unsigned gpu; int mig; /* -1 for the GPU itself */ };
struct nvmlGpmSample_st { nvmlDevice_t device; double time; };
struct nvmlEventSet_st { unsigned seen; unsigned long long types[MAX_GPUS]; unsigned since[MAX_GPUS]; };

static struct nvmlDevice_st gpus[MAX_GPUS], migs[MAX_GPUS][MIGS];
static atomic_uint gpu_count = 1;
static unsigned gpus_at_start = 1;
static int mig_mode;
static unsigned pids[MAX_PIDS], pid_count;
static double frozen; /* 0: the clock runs */
static const char *control_path;

/* What NVML_STUB_COUNT shows: calls but for waits, waits for events; initialisations, event sets, GPM samples in being. */
struct count { atomic_ullong calls, waits, initialised, event_sets, gpm_samples; };
static struct count uncounted, *count = &uncounted;
static atomic_uint initialised; /* of this process alone; the file may be shared by several */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* holds what follows but for the atomics */
static struct stat control_seen;
static atomic_uint hang[MAX_GPUS], lost[MAX_GPUS], fail, latency_us, busy_us;
static struct { unsigned gpu, code; } xids[XIDS]; /* the newest; entry n stands at n modulo XIDS */
static unsigned xid_count;

__attribute__((constructor)) static void configure(void)
{
    const char *text;
    if ((text = getenv("NVML_STUB_GPUS")) != NULL)
        gpu_count = gpus_at_start = (unsigned)atoi(text) > MAX_GPUS ? MAX_GPUS : (unsigned)atoi(text);
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

/* ---- time and load ---- */

static double clock_seconds(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void) { return frozen > 0 ? frozen : clock_seconds(CLOCK_REALTIME); }
static double uptime(void) { return now() - BOOT; }

static void sleep_us(unsigned us)
{
    struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* Load of a GPU, 0.05 to 0.95, at `time` in Unix seconds, and its integral since BOOT. */
static double load_at(unsigned gpu, double time)
{
    return 0.5 + 0.45 * sin((time - BOOT) * (2 * M_PI / PERIOD) + gpu);
}

static double load_until(unsigned gpu, double time)
{
    double w = 2 * M_PI / PERIOD;
    return 0.5 * (time - BOOT) + 0.45 / w * (cos(gpu) - cos((time - BOOT) * w + gpu));
}

static double load(nvmlDevice_t d) { return load_at(d->gpu, now()); }
static unsigned percent(double share) { return (unsigned)lround(100 * share); }
static unsigned power_mw(nvmlDevice_t d) { return (unsigned)(100000 + 500000 * load(d)); }
static unsigned celsius(nvmlDevice_t d) { return 30 + d->gpu + (unsigned)(40 * load(d)); }

static unsigned long long energy_mj(nvmlDevice_t d)
{
    return (unsigned long long)(100000 * uptime() + 500000 * load_until(d->gpu, now()));
}

/* A counter that grows by `rate` a second, faster on each further GPU. */
static unsigned long long grown(nvmlDevice_t d, double rate)
{
    return (unsigned long long)(uptime() * rate * (d->gpu + 1));
}

/* ---- orders, and what every call does first ---- */

static void obey_line(const char *line)
{
    char order[32];
    unsigned a = 0, b = 0;
    int words = sscanf(line, "%31s %u %u", order, &a, &b);
    if (words < 1)
        return;
    if (!strcmp(order, "hang") && a < MAX_GPUS)
        hang[a] = 1;
    else if (!strcmp(order, "lost") && a < MAX_GPUS)
        lost[a] = 1;
    else if (!strcmp(order, "xid") && words == 3) {
        xids[xid_count % XIDS].gpu = a;
        xids[xid_count++ % XIDS].code = b;
    } else if (!strcmp(order, "gpus") && a <= MAX_GPUS)
        gpu_count = a;
    else if (!strcmp(order, "fail"))
        fail = a;
    else if (!strcmp(order, "mismatch"))
        fail = NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    else if (!strcmp(order, "latency_us"))
        latency_us = a;
    else if (!strcmp(order, "busy_us"))
        busy_us = a;
    else {
        fprintf(stderr, "NVML_STUB_CONTROL: no such order: %s\n", line);
        abort(); /* a misspelt order must not pass for one that had no effect */
    }
}

static void obey(void)
{
    struct stat seen;
    if (!control_path || stat(control_path, &seen))
        return;
    pthread_mutex_lock(&lock);
    if (seen.st_ino != control_seen.st_ino || seen.st_size != control_seen.st_size ||
        seen.st_mtim.tv_sec != control_seen.st_mtim.tv_sec || seen.st_mtim.tv_nsec != control_seen.st_mtim.tv_nsec) {
        control_seen = seen;
        for (unsigned i = 0; i < MAX_GPUS; i++)
            hang[i] = lost[i] = 0;
        fail = latency_us = busy_us = 0;
        gpu_count = gpus_at_start;
        FILE *file = fopen(control_path, "re");
        char line[128];
        while (file && fgets(line, sizeof line, file))
            obey_line(line);
        if (file)
            fclose(file);
    }
    pthread_mutex_unlock(&lock);
}

/* Account for one call and spend its time; what it answers is an error, or 0. */
static nvmlReturn_t enter(void)
{
    count->calls++;
    obey();
    if (latency_us)
        sleep_us(latency_us);
    if (busy_us)
        for (double end = clock_seconds(CLOCK_MONOTONIC) + busy_us * 1e-6; clock_seconds(CLOCK_MONOTONIC) < end;)
            ;
    if (fail)
        return fail;
    return initialised ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

static int is_gpu(nvmlDevice_t d) { return d >= gpus && d < gpus + MAX_GPUS; }
static int is_mig(nvmlDevice_t d) { return mig_mode && d >= &migs[0][0] && d < &migs[0][0] + MAX_GPUS * MIGS; }

/* This is where a hung GPU holds its caller. */
static nvmlReturn_t reach(nvmlDevice_t d)
{
    if (!is_gpu(d) && !is_mig(d))
        return NVML_ERROR_INVALID_ARGUMENT;
    while (hang[d->gpu]) {
        sleep_us(10000); /* soon enough to be let go, seldom enough to cost nothing */
        obey();
    }
    return lost[d->gpu] || d->gpu >= gpu_count ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

#define TRY(call) do { nvmlReturn_t refusal_ = (call); if (refusal_) return refusal_; } while (0)
#define ANY_DEVICE(d) do { TRY(enter()); TRY(reach(d)); } while (0)
#define GPU_ONLY(d) do { ANY_DEVICE(d); if (!is_gpu(d)) return NVML_ERROR_NOT_SUPPORTED; } while (0)
#define MIG_ONLY(d) do { ANY_DEVICE(d); if (!is_mig(d)) return NVML_ERROR_NOT_SUPPORTED; } while (0)
#define WANT(condition) do { if (!(condition)) return NVML_ERROR_INVALID_ARGUMENT; } while (0)
#define VERSION(p, v) do { WANT(p); if ((p)->version != (v)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH; } while (0)

static nvmlReturn_t text(char *out, unsigned length, const char *format, unsigned a, unsigned b)
{
    WANT(out);
    int needed = snprintf(out, length, format, a, b);
    return needed < (int)length ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

/* The many getters of one or two numbers, or of one text; `d` is the device. */
#define NUMBER(function, type, value) \
    nvmlReturn_t function(nvmlDevice_t d, type *out) { GPU_ONLY(d); WANT(out); *out = (value); return NVML_SUCCESS; }
#define NUMBERS(function, type, first, second) \
    nvmlReturn_t function(nvmlDevice_t d, type *a, type *b) \
    { GPU_ONLY(d); WANT(a && b); *a = (first); *b = (second); return NVML_SUCCESS; }
#define TEXT(function, format) \
    nvmlReturn_t function(nvmlDevice_t d, char *out, unsigned length) \
    { GPU_ONLY(d); return text(out, length, format, d->gpu, 0); }
#define SYSTEM_TEXT(function, words) \
    nvmlReturn_t function(char *out, unsigned length) { TRY(enter()); return text(out, length, words, 0, 0); }
/* An old name that takes the same arguments as the new one. */
#define SAME(old, new, parameters, arguments) nvmlReturn_t old parameters { return new arguments; }

/* ---- library and system ---- */

nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    count->calls++;
    obey();
    if (fail)
        return fail;
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

/* ---- devices ---- */

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *out) { TRY(enter()); WANT(out); *out = gpu_count; return NVML_SUCCESS; }
SAME(nvmlDeviceGetCount, nvmlDeviceGetCount_v2, (unsigned *out), (out))

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *out)
{
    TRY(enter());
    WANT(out && index < gpu_count);
    TRY(reach(&gpus[index]));
    *out = &gpus[index];
    return NVML_SUCCESS;
}
SAME(nvmlDeviceGetHandleByIndex, nvmlDeviceGetHandleByIndex_v2, (unsigned index, nvmlDevice_t *out), (index, out))

static nvmlReturn_t uuid_of(nvmlDevice_t d, char *out, unsigned length)
{
    if (d->mig >= 0)
        return text(out, length, "MIG-%08x-5555-6666-7777-%012x", d->gpu, (unsigned)d->mig);
    return text(out, length, "GPU-%08x-1111-2222-3333-%012x", d->gpu, 0x57ab);
}

static void pci_of(nvmlDevice_t d, char *out)
{
    snprintf(out, NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE, NVML_DEVICE_PCI_BUS_ID_FMT, 0, 0x10 + d->gpu, 0);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *out)
{
    char name[NVML_DEVICE_UUID_BUFFER_SIZE];
    TRY(enter());
    WANT(uuid && out);
    for (unsigned i = 0; i < gpu_count; i++)
        for (int j = -1; j < (mig_mode ? MIGS : 0); j++) {
            nvmlDevice_t d = j < 0 ? &gpus[i] : &migs[i][j];
            uuid_of(d, name, sizeof name);
            if (!strcmp(name, uuid))
                return *out = d, NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *out)
{
    char name[NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE];
    TRY(enter());
    WANT(bus_id && out);
    for (unsigned i = 0; i < gpu_count; i++) {
        pci_of(&gpus[i], name);
        /* with a domain of eight digits, as this library prints it, or of four */
        if (!strcasecmp(name, bus_id) || !strcasecmp(name + 4, bus_id))
            return *out = &gpus[i], NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}
SAME(nvmlDeviceGetHandleByPciBusId, nvmlDeviceGetHandleByPciBusId_v2, (const char *id, nvmlDevice_t *out), (id, out))

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *out, unsigned length)
{
    ANY_DEVICE(d);
    return text(out, length, is_mig(d) ? "NVIDIA Stub 80GB MIG 3g.40gb" : "NVIDIA Stub 80GB", 0, 0);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *out, unsigned length)
{
    ANY_DEVICE(d);
    return uuid_of(d, out, length);
}

TEXT(nvmlDeviceGetSerial, "16500000%05u")
TEXT(nvmlDeviceGetVbiosVersion, "96.00.%02X.00.01")
TEXT(nvmlDeviceGetInforomImageVersion, "G520.0200.00.%02u")
TEXT(nvmlDeviceGetBoardPartNumber, "900-STUB-%04u-000")
NUMBER(nvmlDeviceGetIndex, unsigned, d->gpu)
NUMBER(nvmlDeviceGetMinorNumber, unsigned, d->gpu)
NUMBER(nvmlDeviceGetModuleId, unsigned, d->gpu + 1)
NUMBER(nvmlDeviceGetBoardId, unsigned, 0x1000 + d->gpu)
NUMBER(nvmlDeviceGetNumaNodeId, unsigned, d->gpu / 4)
NUMBER(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, NVML_DEVICE_ARCH_HOPPER)
NUMBER(nvmlDeviceGetBrand, nvmlBrandType_t, NVML_BRAND_NVIDIA)
NUMBERS(nvmlDeviceGetCudaComputeCapability, int, 9, 0)
NUMBERS(nvmlDeviceGetEccMode, nvmlEnableState_t, NVML_FEATURE_ENABLED, NVML_FEATURE_ENABLED)
NUMBERS(nvmlDeviceGetGspFirmwareMode, unsigned, 1, 1)
NUMBERS(nvmlDeviceGetMigMode, unsigned, mig_mode, mig_mode)
NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
NUMBER(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetAccountingMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetAccountingBufferSize, unsigned, 4000)
NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, NVML_COMPUTEMODE_DEFAULT)

nvmlReturn_t nvmlDeviceGetAddressingMode(nvmlDevice_t d, nvmlDeviceAddressingMode_t *out)
{
    GPU_ONLY(d);
    VERSION(out, nvmlDeviceAddressingMode_v1);
    out->value = NVML_DEVICE_ADDRESSING_MODE_NONE;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *out)
{
    GPU_ONLY(d);
    WANT(out);
    *out = (nvmlPciInfo_t){.bus = 0x10 + d->gpu, .pciDeviceId = 0x233010DE, .pciSubSystemId = 0x16C110DE};
    pci_of(d, out->busId);
    strcpy(out->busIdLegacy, out->busId + 4);
    return NVML_SUCCESS;
}
SAME(nvmlDeviceGetPciInfo, nvmlDeviceGetPciInfo_v3, (nvmlDevice_t d, nvmlPciInfo_t *out), (d, out))
SAME(nvmlDeviceGetPciInfo_v2, nvmlDeviceGetPciInfo_v3, (nvmlDevice_t d, nvmlPciInfo_t *out), (d, out))

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t d, nvmlPciInfoExt_t *out)
{
    GPU_ONLY(d);
    VERSION(out, nvmlPciInfoExt_v1);
    out->domain = out->device = 0;
    out->bus = 0x10 + d->gpu;
    out->pciDeviceId = 0x233010DE;
    out->pciSubSystemId = 0x16C110DE;
    out->baseClass = 3;
    out->subClass = 2;
    pci_of(d, out->busId);
    return NVML_SUCCESS;
}

/* ---- use and memory ---- */

/* Rates are refused in MIG mode, as by the real library. */
#define NOT_IN_MIG_MODE do { if (mig_mode) return NVML_ERROR_NOT_SUPPORTED; } while (0)
#define ENGINE(function, share) \
    nvmlReturn_t function(nvmlDevice_t d, unsigned *use, unsigned *period_us) \
    { \
        GPU_ONLY(d); NOT_IN_MIG_MODE; WANT(use && period_us); \
        *use = percent(load(d) * (share)); *period_us = SAMPLE_US; \
        return NVML_SUCCESS; \
    }
ENGINE(nvmlDeviceGetEncoderUtilization, 0.5)
ENGINE(nvmlDeviceGetDecoderUtilization, 0.4)
ENGINE(nvmlDeviceGetJpgUtilization, 0.3)
ENGINE(nvmlDeviceGetOfaUtilization, 0.2)

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, nvmlUtilization_t *out)
{
    GPU_ONLY(d);
    NOT_IN_MIG_MODE;
    WANT(out);
    out->gpu = percent(load(d));
    out->memory = percent(load(d) * 0.6);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEncoderStats(nvmlDevice_t d, unsigned *sessions, unsigned *fps, unsigned *latency)
{
    GPU_ONLY(d);
    WANT(sessions && fps && latency);
    *sessions = *fps = *latency = 0;
    return NVML_SUCCESS;
}

/* What the driver's buffer of one kind holds since `last`, oldest first; gives the number of entries there are. */
static unsigned samples_since(nvmlDevice_t d, nvmlSamplingType_t type, unsigned long long last, nvmlSample_t *out, unsigned room)
{
    unsigned long long newest = (unsigned long long)(now() * 1e6) / SAMPLE_US;
    unsigned long long n = newest - SAMPLES + 1;
    unsigned found = 0;
    if (n <= last / SAMPLE_US)
        n = last / SAMPLE_US + 1;
    for (; n <= newest; n++, found++)
        if (found < room) {
            double share = load_at(d->gpu, (double)(n * SAMPLE_US) * 1e-6);
            out[found].timeStamp = n * SAMPLE_US;
            memset(&out[found].sampleValue, 0xA5, sizeof out[found].sampleValue); /* see field_value */
            out[found].sampleValue.uiVal = type == NVML_TOTAL_POWER_SAMPLES ? (unsigned)(100000 + 500000 * share)
                                         : type == NVML_MEMORY_UTILIZATION_SAMPLES ? percent(share * 0.6)
                                                                                    : percent(share);
        }
    return found;
}

nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t d, nvmlSamplingType_t type, unsigned long long last,
                                  nvmlValueType_t *value_type, unsigned *size, nvmlSample_t *samples)
{
    GPU_ONLY(d);
    WANT(value_type && size);
    if (type > NVML_MEMORY_UTILIZATION_SAMPLES || (mig_mode && type != NVML_TOTAL_POWER_SAMPLES))
        return NVML_ERROR_NOT_SUPPORTED;
    *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
    if (!samples)
        return *size = SAMPLES, NVML_SUCCESS;
    WANT(*size);
    unsigned found = samples_since(d, type, last, samples, *size);
    if (found < *size)
        *size = found;
    return found ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* A GPU's memory, or the half of it that each MIG device has; in use is more on each further GPU, and follows the load. */
static nvmlMemory_v2_t memory_of(nvmlDevice_t d)
{
    unsigned parts = is_mig(d) ? MIGS : 1;
    nvmlMemory_v2_t m = {.version = nvmlMemory_v2, .total = 80 * GIB / parts, .reserved = GIB / 2 / parts};
    m.used = ((10 + d->gpu) * GIB + (unsigned long long)(load(d) * (double)GIB)) / parts;
    m.free = m.total - m.reserved - m.used;
    return m;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *out)
{
    ANY_DEVICE(d);
    VERSION(out, nvmlMemory_v2);
    *out = memory_of(d);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *out)
{
    ANY_DEVICE(d);
    WANT(out);
    nvmlMemory_v2_t m = memory_of(d);
    *out = (nvmlMemory_t){.total = m.total, .free = m.free, .used = m.used + m.reserved};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t d, nvmlBAR1Memory_t *out)
{
    GPU_ONLY(d);
    WANT(out);
    *out = (nvmlBAR1Memory_t){.bar1Total = 128 * GIB, .bar1Free = (127 - d->gpu) * GIB, .bar1Used = (1 + d->gpu) * GIB};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t d, nvmlMemory_t *out)
{
    GPU_ONLY(d);
    WANT(out);
    *out = (nvmlMemory_t){.total = 4 * GIB, .free = 3 * GIB, .used = GIB};
    return NVML_SUCCESS;
}

/* Its presence, and that of the detail list, tells clients which layout of nvmlProcessInfo_t the library has. */
nvmlReturn_t nvmlDeviceGetConfComputeMemSizeInfo(nvmlDevice_t d, nvmlConfComputeMemSizeInfo_t *out)
{
    GPU_ONLY(d);
    WANT(out);
    *out = (nvmlConfComputeMemSizeInfo_t){.protectedMemSizeKib = 4 << 20, .unprotectedMemSizeKib = 76 << 20};
    return NVML_SUCCESS;
}

/* ---- heat, power and clocks ---- */

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, nvmlTemperatureSensors_t sensor, unsigned *out)
{
    GPU_ONLY(d);
    WANT(out && sensor == NVML_TEMPERATURE_GPU);
    *out = celsius(d);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t d, nvmlTemperature_t *out)
{
    GPU_ONLY(d);
    VERSION(out, nvmlTemperature_v1);
    WANT(out->sensorType == NVML_TEMPERATURE_GPU);
    out->temperature = (int)celsius(d);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t d, nvmlMarginTemperature_t *out)
{
    GPU_ONLY(d);
    VERSION(out, nvmlMarginTemperature_v1);
    out->marginTemperature = 87 - (int)celsius(d);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t d, nvmlTemperatureThresholds_t threshold, unsigned *out)
{
    static const unsigned celsius_at[] = {92, 89, 95, 87}; /* shutdown, slowdown, memory, GPU */
    GPU_ONLY(d);
    WANT(out && threshold < NVML_TEMPERATURE_THRESHOLD_COUNT);
    if (threshold > NVML_TEMPERATURE_THRESHOLD_GPU_MAX)
        return NVML_ERROR_NOT_SUPPORTED;
    *out = celsius_at[threshold];
    return NVML_SUCCESS;
}

NUMBER(nvmlDeviceGetNumFans, unsigned, FANS)
NUMBER(nvmlDeviceGetFanSpeed, unsigned, 30 + d->gpu)

nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t d, unsigned fan, unsigned *out)
{
    GPU_ONLY(d);
    WANT(out && fan < FANS);
    *out = 30 + d->gpu + 10 * fan;
    return NVML_SUCCESS;
}

NUMBER(nvmlDeviceGetPowerUsage, unsigned, power_mw(d))
NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, energy_mj(d))
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, 650000)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, 660000)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, 700000)
NUMBERS(nvmlDeviceGetPowerManagementLimitConstraints, unsigned, 200000, 710000)
NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t, load(d) > 0.5 ? NVML_PSTATE_0 : NVML_PSTATE_2)
/* clocks set by the user, and at the top of the load curve also the power cap */
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, 0x2 | (load(d) > 0.9 ? 0x4 : 0))
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, 0x2 | (load(d) > 0.9 ? 0x4 : 0))
NUMBER(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, 0x1FF)

static const unsigned clock_max_mhz[] = {1980, 1995, 2619, 1800}; /* graphics, SM, memory, video */

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t d, nvmlClockType_t type, unsigned *out)
{
    GPU_ONLY(d);
    WANT(out && type < NVML_CLOCK_COUNT);
    *out = clock_max_mhz[type];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, nvmlClockType_t type, unsigned *out)
{
    GPU_ONLY(d);
    WANT(out && type < NVML_CLOCK_COUNT);
    *out = clock_max_mhz[type] - (type == NVML_CLOCK_MEM ? 0 : (unsigned)(300 * (1 - load(d))));
    return NVML_SUCCESS;
}

/* ---- links ---- */

NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, 4)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, 5)
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned, 5)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, 8)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned, 16)
NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned, 11 + d->gpu)

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t d, nvmlPcieUtilCounter_t counter, unsigned *out)
{
    GPU_ONLY(d);
    WANT(out && counter < NVML_PCIE_UTIL_COUNT);
    sleep_us(20000); /* the real one watches a counter over 20 ms, says the header */
    *out = (counter == NVML_PCIE_UTIL_TX_BYTES ? 1000 : 2000) * (d->gpu + 1);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t d, unsigned link, nvmlEnableState_t *out)
{
    GPU_ONLY(d);
    WANT(out && link < LINKS);
    *out = link == LINKS - 1 ? NVML_FEATURE_DISABLED : NVML_FEATURE_ENABLED; /* the last one is down */
    return NVML_SUCCESS;
}

/* All is well but on GPU 1, which routes badly. */
static unsigned fabric_health(nvmlDevice_t d) { return 0x2 | 0x2 << 2 | (d->gpu == 1 ? 0x1 : 0x2) << 4 | 0x2 << 6; }

nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t d, nvmlGpuFabricInfoV_t *out)
{
    GPU_ONLY(d);
    WANT(out);
    if (out->version != nvmlGpuFabricInfo_v2 && out->version != nvmlGpuFabricInfo_v3)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memset(out->clusterUuid, 0x5A, sizeof out->clusterUuid);
    out->status = NVML_SUCCESS;
    out->cliqueId = 7;
    out->state = NVML_GPU_FABRIC_STATE_COMPLETED;
    out->healthMask = fabric_health(d);
    if (out->version == nvmlGpuFabricInfo_v3)
        out->healthSummary = 1;
    return NVML_SUCCESS;
}

/* ---- faults ---- */

static unsigned long long ecc_errors(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter)
{
    return d->gpu + (type == NVML_MEMORY_ERROR_TYPE_CORRECTED ? 10 : 20) + (counter == NVML_AGGREGATE_ECC ? 100 : 0);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         unsigned long long *out)
{
    GPU_ONLY(d);
    WANT(out && type < NVML_MEMORY_ERROR_TYPE_COUNT && counter < NVML_ECC_COUNTER_TYPE_COUNT);
    *out = ecc_errors(d, type, counter);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                             nvmlMemoryLocation_t location, unsigned long long *out)
{
    GPU_ONLY(d);
    WANT(out);
    if (location != NVML_MEMORY_LOCATION_DRAM && location != NVML_MEMORY_LOCATION_SRAM)
        return NVML_ERROR_NOT_SUPPORTED;
    *out = location == NVML_MEMORY_LOCATION_DRAM ? ecc_errors(d, type, counter) : 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                                       unsigned *failure)
{
    GPU_ONLY(d);
    WANT(corrected && uncorrected && pending && failure);
    *corrected = 6;
    *uncorrected = 7;
    *pending = 1;
    *failure = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t d, nvmlRowRemapperHistogramValues_t *out)
{
    GPU_ONLY(d);
    WANT(out);
    *out = (nvmlRowRemapperHistogramValues_t){.max = 640, .high = 4, .partial = 3, .low = 2, .none = 1};
    return NVML_SUCCESS;
}

/* ---- field values ---- */

static nvmlReturn_t field_value(nvmlDevice_t d, nvmlFieldValue_t *f)
{
    unsigned scope = f->scopeId;
    /* One link, or all of them together. */
    double links = scope < LINKS ? scope + 1 : LINKS * (LINKS + 1) / 2.0;
    /* A client that reads another member of the union than valueType says gets nonsense, not a lucky zero. */
    memset(&f->value, 0xA5, sizeof f->value);
#define VALUE(kind, member, expression) f->valueType = NVML_VALUE_TYPE_##kind, f->value.member = (expression); return NVML_SUCCESS
#define UINT(id, expression) case id: VALUE(UNSIGNED_INT, uiVal, expression)
#define INT(id, expression) case id: VALUE(SIGNED_INT, siVal, expression)
#define COUNTER(id, expression) case id: VALUE(UNSIGNED_LONG_LONG, ullVal, expression)
#define LINK(id, expression) \
    case id: WANT(scope < LINKS || scope == ~0U); VALUE(UNSIGNED_LONG_LONG, ullVal, expression)
    switch (f->fieldId) {
    COUNTER(NVML_FI_DEV_ECC_SBE_VOL_TOTAL, ecc_errors(d, NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC));
    COUNTER(NVML_FI_DEV_ECC_DBE_VOL_TOTAL, ecc_errors(d, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC));
    COUNTER(NVML_FI_DEV_ECC_SBE_AGG_TOTAL, ecc_errors(d, NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_AGGREGATE_ECC));
    COUNTER(NVML_FI_DEV_ECC_DBE_AGG_TOTAL, ecc_errors(d, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_AGGREGATE_ECC));
    UINT(NVML_FI_DEV_RETIRED_SBE, 3);
    UINT(NVML_FI_DEV_RETIRED_DBE, 4);
    UINT(NVML_FI_DEV_RETIRED_PENDING, 1);
    COUNTER(NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, 51 + d->gpu);
    COUNTER(NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL, 61 + d->gpu);
    COUNTER(NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 71 + d->gpu);
    COUNTER(NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, 81 + d->gpu);
    COUNTER(NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL, 91 + d->gpu);
    UINT(NVML_FI_DEV_NVLINK_LINK_COUNT, LINKS);
    /* nanoseconds: one, two … percent of the time */
    COUNTER(NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP, grown(d, 1e7));
    COUNTER(NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST, grown(d, 2e7));
    COUNTER(NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, grown(d, 3e7));
    COUNTER(NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, grown(d, 4e7));
    COUNTER(NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, grown(d, 5e7));
    UINT(NVML_FI_DEV_MEMORY_TEMP, celsius(d) + 9);
    COUNTER(NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, energy_mj(d));
    COUNTER(NVML_FI_DEV_ENERGY, energy_mj(d));
    UINT(NVML_FI_DEV_PCIE_REPLAY_COUNTER, 11 + d->gpu);
    LINK(NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, grown(d, 1e3 * links)); /* KiB */
    LINK(NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, grown(d, 2e3 * links));
    LINK(NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX, grown(d, 1.1e3 * links));
    LINK(NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX, grown(d, 2.2e3 * links));
    LINK(NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES, grown(d, 1e3 * links) * 1024);
    LINK(NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES, grown(d, 2e3 * links) * 1024);
    UINT(NVML_FI_DEV_REMAPPED_COR, 6);
    UINT(NVML_FI_DEV_REMAPPED_UNC, 7);
    UINT(NVML_FI_DEV_REMAPPED_PENDING, 1);
    UINT(NVML_FI_DEV_REMAPPED_FAILURE, 0);
    UINT(NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS, 21 + d->gpu);
    UINT(NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR, 31 + d->gpu);
    UINT(NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR, 41 + d->gpu);
    UINT(NVML_FI_DEV_POWER_AVERAGE, power_mw(d));
    UINT(NVML_FI_DEV_POWER_INSTANT, power_mw(d) + 1000);
    UINT(NVML_FI_DEV_POWER_MIN_LIMIT, 200000);
    UINT(NVML_FI_DEV_POWER_MAX_LIMIT, 710000);
    UINT(NVML_FI_DEV_POWER_DEFAULT_LIMIT, 700000);
    UINT(NVML_FI_DEV_POWER_CURRENT_LIMIT, 650000);
    UINT(NVML_FI_DEV_POWER_REQUESTED_LIMIT, 660000);
    INT(NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT, -8);
    INT(NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT, -2);
    INT(NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT, 3);
    INT(NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT, 0);
    COUNTER(NVML_FI_DEV_PCIE_COUNT_TX_BYTES, grown(d, 1e6));
    COUNTER(NVML_FI_DEV_PCIE_COUNT_RX_BYTES, grown(d, 2e6));
    UINT(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, d->gpu == 1 ? 1 : 0);
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int number, nvmlFieldValue_t *values)
{
    GPU_ONLY(d);
    WANT(values && number > 0);
    for (int i = 0; i < number; i++) {
        values[i].timestamp = (long long)(now() * 1e6);
        values[i].latencyUsec = 1;
        values[i].nvmlReturn = field_value(d, &values[i]);
    }
    return NVML_SUCCESS;
}

/* ---- processes ---- */

static int runs_on(unsigned n, nvmlDevice_t d) { return !is_mig(d) && n % gpu_count == d->gpu; }
static unsigned long long process_bytes(unsigned n) { return (n + 1) * (GIB / 4); }

/* The three layouts of a process entry; an array that is too small is refused, with the size it should have. */
#define PROCESSES(function, type, present, ...) \
    nvmlReturn_t function(nvmlDevice_t d, unsigned *size, type *out) \
    { \
        unsigned found = 0; \
        ANY_DEVICE(d); \
        WANT(size); \
        for (unsigned n = 0; (present) && n < pid_count; n++) \
            if (runs_on(n, d)) { \
                if (out && found < *size) \
                    out[found] = (type){.pid = pids[n], .usedGpuMemory = process_bytes(n), __VA_ARGS__}; \
                found++; \
            } \
        unsigned room = *size; \
        *size = found; \
        return found <= room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE; \
    }
#define NO_INSTANCE .gpuInstanceId = ~0U, .computeInstanceId = ~0U
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t, 1, NO_INSTANCE)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, 1, NO_INSTANCE)
PROCESSES(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t, 1, )
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t, 0, NO_INSTANCE)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t, 0, NO_INSTANCE)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t, 0, )
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t, 0, NO_INSTANCE)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, 0, NO_INSTANCE)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t, 0, )

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t d, nvmlProcessDetailList_t *list)
{
    unsigned found = 0;
    ANY_DEVICE(d);
    VERSION(list, nvmlProcessDetailList_v1);
    for (unsigned n = 0; list->mode != NVML_PROCESS_MODE_GRAPHICS && list->mode != NVML_PROCESS_MODE_MPS && n < pid_count; n++)
        if (runs_on(n, d)) {
            if (list->procArray && found < list->numProcArrayEntries)
                list->procArray[found] = (nvmlProcessDetail_v1_t){
                    .pid = pids[n], .usedGpuMemory = process_bytes(n), NO_INSTANCE, .usedGpuCcProtectedMemory = 0};
            found++;
        }
    unsigned room = list->procArray ? list->numProcArrayEntries : 0;
    list->numProcArrayEntries = found;
    return found <= room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t d, nvmlProcessUtilizationSample_t *out, unsigned *size,
                                             unsigned long long last)
{
    unsigned long long newest = (unsigned long long)(now() * 1e6) / SAMPLE_US * SAMPLE_US;
    unsigned found = 0;
    GPU_ONLY(d);
    NOT_IN_MIG_MODE;
    WANT(size);
    for (unsigned n = 0; newest > last && n < pid_count; n++)
        if (runs_on(n, d)) {
            if (out && found < *size)
                out[found] = (nvmlProcessUtilizationSample_t){
                    .pid = pids[n], .timeStamp = newest, .smUtil = percent(load(d)), .memUtil = percent(load(d) * 0.6)};
            found++;
        }
    unsigned room = out ? *size : 0;
    *size = found;
    return !found ? NVML_ERROR_NOT_FOUND : found <= room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

/* ---- MIG ---- */

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t d, unsigned *out)
{
    ANY_DEVICE(d);
    WANT(out);
    *out = is_mig(d);
    return NVML_SUCCESS;
}

/* One more slot than there are devices, so that clients meet an empty one. */
NUMBER(nvmlDeviceGetMaxMigDeviceCount, unsigned, mig_mode ? MIGS + 1 : 0)

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned index, nvmlDevice_t *out)
{
    GPU_ONLY(d);
    if (!mig_mode)
        return NVML_ERROR_NOT_SUPPORTED;
    WANT(out && index <= MIGS);
    /* The first slot is the empty one: a client that stops there finds nothing. */
    return index == 0 ? NVML_ERROR_NOT_FOUND : (*out = &migs[d->gpu][index - 1], NVML_SUCCESS);
}

#define MIG_NUMBER(function, type, value) \
    nvmlReturn_t function(nvmlDevice_t d, type *out) { MIG_ONLY(d); WANT(out); *out = (value); return NVML_SUCCESS; }
MIG_NUMBER(nvmlDeviceGetGpuInstanceId, unsigned, (unsigned)d->mig + 1)
MIG_NUMBER(nvmlDeviceGetComputeInstanceId, unsigned, 0)
MIG_NUMBER(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, nvmlDevice_t, &gpus[d->gpu])
MIG_NUMBER(nvmlDeviceGetAttributes_v2, nvmlDeviceAttributes_t,
           ((nvmlDeviceAttributes_t){.multiprocessorCount = 60, .sharedCopyEngineCount = 3, .sharedDecoderCount = 3,
                                     .sharedJpegCount = 3, .gpuInstanceSliceCount = 3, .computeInstanceSliceCount = 3,
                                     .memorySizeMB = 40 << 10}))
SAME(nvmlDeviceGetAttributes, nvmlDeviceGetAttributes_v2, (nvmlDevice_t d, nvmlDeviceAttributes_t *out), (d, out))

/* ---- GPM ---- */

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t d, nvmlGpmSupport_t *out)
{
    ANY_DEVICE(d);
    VERSION(out, NVML_GPM_SUPPORT_VERSION);
    out->isSupportedDevice = 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *out)
{
    TRY(enter());
    WANT(out);
    *out = calloc(1, sizeof **out);
    count->gpm_samples++;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    TRY(enter());
    WANT(sample);
    free(sample);
    count->gpm_samples--;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t d, nvmlGpmSample_t sample)
{
    ANY_DEVICE(d);
    WANT(sample);
    *sample = (struct nvmlGpmSample_st){d, now()};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t d, unsigned instance, nvmlGpmSample_t sample)
{
    GPU_ONLY(d);
    WANT(sample && mig_mode && instance >= 1 && instance <= MIGS);
    *sample = (struct nvmlGpmSample_st){&migs[d->gpu][instance - 1], now()};
    return NVML_SUCCESS;
}

/* Percentages only: the mean load between the samples, a little less for each further metric, half on a MIG device. */
nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get)
{
    TRY(enter());
    VERSION(get, NVML_GPM_METRICS_GET_VERSION);
    WANT(get->sample1 && get->sample2 && get->numMetrics <= NVML_GPM_METRIC_MAX);
    nvmlDevice_t d = get->sample1->device;
    double from = get->sample1->time, to = get->sample2->time;
    WANT(d && d == get->sample2->device);
    double mean = to > from ? (load_until(d->gpu, to) - load_until(d->gpu, from)) / (to - from) : load_at(d->gpu, to);
    for (unsigned i = 0; i < get->numMetrics; i++) {
        nvmlGpmMetric_t *m = &get->metrics[i];
        int known = m->metricId >= NVML_GPM_METRIC_GRAPHICS_UTIL && m->metricId <= NVML_GPM_METRIC_FP16_UTIL;
        m->nvmlReturn = known ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
        if (known) {
            m->value = mean * (100.0 - m->metricId) * (is_mig(d) ? 0.5 : 1);
            m->metricInfo.shortName = m->metricInfo.longName = "stub";
            m->metricInfo.unit = "%";
        }
    }
    return NVML_SUCCESS;
}

/* ---- events ---- */

NUMBER(nvmlDeviceGetSupportedEventTypes, unsigned long long, nvmlEventTypeXidCriticalError)

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out)
{
    TRY(enter());
    WANT(out);
    *out = calloc(1, sizeof **out);
    pthread_mutex_lock(&lock);
    (*out)->seen = xid_count;
    pthread_mutex_unlock(&lock);
    count->event_sets++;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    TRY(enter());
    WANT(set);
    free(set);
    count->event_sets--;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, nvmlEventSet_t set)
{
    GPU_ONLY(d);
    WANT(set);
    if (types & ~nvmlEventTypeXidCriticalError)
        return NVML_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    set->types[d->gpu] = types;
    set->since[d->gpu] = xid_count; /* what happened before is not reported */
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

/* The next XID the set is registered for; gives whether there was one. */
static int next_event(nvmlEventSet_t set, nvmlEventData_t *out)
{
    int found = 0;
    pthread_mutex_lock(&lock);
    while (!found && set->seen < xid_count) {
        unsigned n = set->seen++, gpu = xids[n % XIDS].gpu;
        if (n + XIDS >= xid_count && gpu < MAX_GPUS && set->types[gpu] && n >= set->since[gpu]) {
            *out = (nvmlEventData_t){.device = &gpus[gpu], .eventType = nvmlEventTypeXidCriticalError,
                                     .eventData = xids[n % XIDS].code, NO_INSTANCE};
            found = 1;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *out, unsigned timeout_ms)
{
    double end = clock_seconds(CLOCK_MONOTONIC) + timeout_ms * 1e-3;
    count->waits++;
    WANT(set && out);
    for (;;) {
        obey();
        if (fail)
            return fail;
        if (next_event(set, out))
            return NVML_SUCCESS;
        double left = end - clock_seconds(CLOCK_MONOTONIC);
        if (left <= 0)
            return NVML_ERROR_TIMEOUT;
        /* Without a file of orders nothing can happen: sleep it out, so that waiting costs no CPU. */
        sleep_us((unsigned)(1e6 * (control_path && left > 0.02 ? 0.02 : left)) + 1);
    }
}
SAME(nvmlEventSetWait, nvmlEventSetWait_v2, (nvmlEventSet_t set, nvmlEventData_t *out, unsigned ms), (set, out, ms))
