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
#ifndef STUB_H
#define STUB_H

#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS /* declare the old names too: this library has to export them */
#include <nvml.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* What NVML_STUB_COUNT shows: calls but for waits, waits for events; initialisations, event sets, GPM samples in being. */
struct count { atomic_ullong calls, waits, initialised, event_sets, gpm_samples; };

/* frame.c: configuration and orders */
extern struct nvmlDevice_st gpus[MAX_GPUS], migs[MAX_GPUS][MIGS];
extern int mig_mode;
extern double frozen; /* 0: the clock runs */
extern unsigned pids[MAX_PIDS], pid_count;
extern const char *control_path;
extern struct count *count;
extern pthread_mutex_t lock; /* holds the XIDs and the file of orders */
extern struct xid { unsigned gpu, code; } xids[XIDS]; /* the newest; entry n stands at n modulo XIDS */
extern unsigned xid_count;

void obey(void);                       /* look at the orders */
unsigned gpu_count(void);
nvmlReturn_t failing(void);            /* what every call shall answer, or 0 */
nvmlReturn_t enter(void);              /* what every call does first; an error, or 0 */
nvmlReturn_t reach(nvmlDevice_t d);    /* what a call on a device, GPU or MIG, does next */
int is_gpu(nvmlDevice_t d);
int is_mig(nvmlDevice_t d);
nvmlReturn_t text(char *out, unsigned length, const char *format, unsigned a, unsigned b);

/* load.c: time and load, and what follows from them */
double now(void);                      /* Unix seconds */
double uptime(void);                   /* seconds since BOOT */
double monotonic(void);
void sleep_us(unsigned us);
double load_at(unsigned gpu, double time);    /* share, 0.05 to 0.95, at `time` in Unix seconds */
double load_until(unsigned gpu, double time); /* its integral since BOOT, seconds */
double load(nvmlDevice_t d);
unsigned percent(double share);
unsigned celsius(nvmlDevice_t d);
unsigned power_mw(nvmlDevice_t d);
unsigned long long energy_mj(nvmlDevice_t d);
unsigned long long grown(nvmlDevice_t d, double rate); /* a counter of `rate` a second, faster on each further GPU */
unsigned long long ecc_errors(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter);

#define TRY(call) do { nvmlReturn_t refusal_ = (call); if (refusal_) return refusal_; } while (0)
#define ANY_DEVICE(d) do { TRY(enter()); TRY(reach(d)); } while (0)
#define GPU_ONLY(d) do { ANY_DEVICE(d); if (!is_gpu(d)) return NVML_ERROR_NOT_SUPPORTED; } while (0)
#define MIG_ONLY(d) do { ANY_DEVICE(d); if (!is_mig(d)) return NVML_ERROR_NOT_SUPPORTED; } while (0)
#define WANT(condition) do { if (!(condition)) return NVML_ERROR_INVALID_ARGUMENT; } while (0)
#define VERSION(p, v) do { WANT(p); if ((p)->version != (v)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH; } while (0)

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

/* Rates are refused in MIG mode, as by the real library. */
#define NOT_IN_MIG_MODE do { if (mig_mode) return NVML_ERROR_NOT_SUPPORTED; } while (0)
#define NO_INSTANCE .gpuInstanceId = ~0U, .computeInstanceId = ~0U

#endif
