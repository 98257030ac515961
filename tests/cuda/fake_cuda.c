/* As much of CUDA as onnxruntime needs to open a graph on a machine without a GPU: memory is the host's, and kernels
   do nothing. What it computes is rubbish; where it puts each operator, and what it is given, is real. */

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static int handle; /* what every stream, event and library is */

int fake_kernels, fake_graphs; /* so many were launched */

int __cudaLaunchKernel(void) { fake_kernels++; return 0; }
int cudaLaunchKernel(void) { fake_kernels++; return 0; }
int cudaLaunchKernelExC(void) { fake_kernels++; return 0; }
int cudaGraphLaunch(void *graph, void *stream) { fake_graphs++; return 0; }

static int made(void **it) { *it = &handle; return 0; }
static int allocated(void **it, size_t size) { *it = calloc(size ? size : 1, 1); return *it ? 0 : 2; }

int cudaStreamCreate(void **stream) { return made(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return made(stream); }
int cudaStreamEndCapture(void *stream, void **graph) { return made(graph); }
int cudaGraphInstantiate(void **program, void *graph, unsigned long long flags) { return made(program); }
int cudaEventCreate(void **event) { return made(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return made(event); }
int cublasCreate_v2(void **library) { return made(library); }
int cublasLtCreate(void **library) { return made(library); }
int cudnnCreate(void **library) { return made(library); }
int curandCreateGenerator(void **generator, int kind) { return made(generator); }

int cudaMalloc(void **memory, size_t size) { return allocated(memory, size); }
int cudaMallocHost(void **memory, size_t size) { return allocated(memory, size); }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) { return allocated(memory, size); }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
int cudaMemset(void *to, int value, size_t size) { memset(to, value, size); return 0; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) { memset(to, value, size); return 0; }

/* As driver_types.h lays it out. */
typedef struct { size_t x, y, z; } position;
typedef struct { char *start; size_t pitch, width, rows; } pitched;
typedef struct { void *array; position from; pitched source; void *other_array; position at; pitched target;
                 struct { size_t width, height, depth; } extent; int kind; } box;

int cudaMemcpy3D(const box *asked) {
    for (size_t slice = 0; slice < asked->extent.depth; slice++)
        for (size_t row = 0; row < asked->extent.height; row++)
            memcpy(asked->target.start + (slice * asked->target.rows + row) * asked->target.pitch,
                   asked->source.start + (slice * asked->source.rows + row) * asked->source.pitch, asked->extent.width);
    return 0;
}

int cudaMemGetInfo(size_t *left, size_t *all) { *left = (size_t)70 << 30; *all = (size_t)80 << 30; return 0; }

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaGetDriverEntryPointByVersion(void) { return 1; }
const char *cudaGetErrorString(int error) { return "a fake error"; }
const char *cudaGetErrorName(int error) { return "fake"; }
const char *cudnnGetErrorString(int error) { return "a fake error"; }
size_t cudnnGetVersion(void) { return 92000; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: *value = 1024; break;  /* threads of a block */
    case 10: *value = 32; break;   /* threads of a warp */
    case 16: *value = 132; break;  /* multiprocessors */
    case 75: *value = 8; break;    /* of compute capability 8.0, an Ampere: a Hopper would ask cuDNN how to attend */
    case 76: *value = 0; break;
    default: *value = 100000;
    }
    return 0;
}

int cudaGetDeviceProperties(char *properties, int device) {
    struct { char name[256]; char ids[32]; size_t memory, shared; int registers, warp; size_t pitch; int threads,
             block[3], grid[3]; size_t constants; int major, minor; size_t alignments[2]; int multiprocessors; } found = {
        .name = "fake", .memory = (size_t)80 << 30, .shared = 49152, .registers = 65536, .warp = 32,
        .threads = 1024, .block = {1024, 1024, 64}, .grid = {2147483647, 65535, 65535}, .constants = 65536, .major = 8,
        .alignments = {512, 32}, .multiprocessors = 132,
    };
    memcpy(properties, &found, sizeof found);
    return 0;
}
