/* What devices there are, GPU and MIG, and what they are called. */
#include "stub.h"

#include <strings.h>

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *out) { TRY(enter()); WANT(out); *out = gpu_count(); return NVML_SUCCESS; }
SAME(nvmlDeviceGetCount, nvmlDeviceGetCount_v2, (unsigned *out), (out))

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *out)
{
    TRY(enter());
    WANT(out && index < gpu_count());
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
    for (unsigned i = 0; i < gpu_count(); i++)
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
    for (unsigned i = 0; i < gpu_count(); i++) {
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
