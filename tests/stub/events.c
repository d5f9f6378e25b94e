/* GPM samples and events: what a client allocates, fills and frees. */
#include "stub.h"

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
    double end = monotonic() + timeout_ms * 1e-3;
    count->waits++;
    WANT(set && out);
    for (;;) {
        obey();
        TRY(failing());
        if (next_event(set, out))
            return NVML_SUCCESS;
        double left = end - monotonic();
        if (left <= 0)
            return NVML_ERROR_TIMEOUT;
        /* Without a file of orders nothing can happen: sleep it out, so that waiting costs no CPU. */
        sleep_us((unsigned)(1e6 * (control_path && left > 0.02 ? 0.02 : left)) + 1);
    }
}
SAME(nvmlEventSetWait, nvmlEventSetWait_v2, (nvmlEventSet_t set, nvmlEventData_t *out, unsigned ms), (set, out, ms))
