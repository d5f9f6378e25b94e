/* What a device measures, call by call. */
#include "stub.h"

/* ---- use and memory ---- */

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
