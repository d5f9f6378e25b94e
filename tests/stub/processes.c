/* Who uses a device. */
#include "stub.h"

static int runs_on(unsigned n, nvmlDevice_t d) { return !is_mig(d) && n % gpu_count() == d->gpu; }
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
