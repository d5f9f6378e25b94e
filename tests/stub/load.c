/* One load curve per GPU, and what follows from it. */
#include "stub.h"

#include <math.h>
#include <time.h>

static double clock_seconds(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double now(void) { return frozen > 0 ? frozen : clock_seconds(CLOCK_REALTIME); }
double uptime(void) { return now() - BOOT; }
double monotonic(void) { return clock_seconds(CLOCK_MONOTONIC); }

void sleep_us(unsigned us)
{
    struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

double load_at(unsigned gpu, double time)
{
    return 0.5 + 0.45 * sin((time - BOOT) * (2 * M_PI / PERIOD) + gpu);
}

double load_until(unsigned gpu, double time)
{
    double w = 2 * M_PI / PERIOD;
    return 0.5 * (time - BOOT) + 0.45 / w * (cos(gpu) - cos((time - BOOT) * w + gpu));
}

double load(nvmlDevice_t d) { return load_at(d->gpu, now()); }
unsigned percent(double share) { return (unsigned)lround(100 * share); }
unsigned power_mw(nvmlDevice_t d) { return (unsigned)(100000 + 500000 * load(d)); }
unsigned celsius(nvmlDevice_t d) { return 30 + d->gpu + (unsigned)(40 * load(d)); }

unsigned long long energy_mj(nvmlDevice_t d)
{
    return (unsigned long long)(100000 * uptime() + 500000 * load_until(d->gpu, now()));
}

unsigned long long grown(nvmlDevice_t d, double rate)
{
    return (unsigned long long)(uptime() * rate * (d->gpu + 1));
}

unsigned long long ecc_errors(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter)
{
    return d->gpu + (type == NVML_MEMORY_ERROR_TYPE_CORRECTED ? 10 : 20) + (counter == NVML_AGGREGATE_ECC ? 100 : 0);
}
