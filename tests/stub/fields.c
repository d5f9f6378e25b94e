/* What a device measures, as field values. */
#include "stub.h"

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
