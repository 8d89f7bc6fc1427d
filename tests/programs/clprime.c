// Known numbers of OpenCL commands, a prime of each kind, for tests of the accelerator recorder.
//
//   clprime prime       1009 kernels, 503 writes, 251 reads by two threads, a queue each
//   clprime kinds       one of every other command that the device has
//   clprime leave       97 kernels, then 13 that never run, and returns without waiting
//   clprime killed      101 kernels, then 7 that never run, and kills itself by SIGKILL
//   clprime refused     11 writes that are refused, 5 that are made
//   clprime fork        19 writes by a parent and 23 by its child
//   clprime profiling   17 kernels on a queue without profiling, which must look so
//   clprime bench N     N small kernels; prints the ns each took
//
// Prints `name count bytes` of what it counted itself, by its own events.
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BYTES 65536
#define CHECK(call)                                                                   \
    do {                                                                              \
        cl_int error_ = (call);                                                       \
        if (error_) fprintf(stderr, "%s: %d\n", #call, error_), exit(3);              \
    } while (0)

static const char *source =
    "__kernel void scale(__global float *x) { x[get_global_id(0)] *= 2; }\n"
    "__kernel void shift(__global float *x) { x[get_global_id(0)] += 1; }\n";
static cl_context context;
static cl_device_id device;
static cl_program program;

static void setup(void) {
    cl_platform_id platform;
    cl_int error;
    CHECK(clGetPlatformIDs(1, &platform, NULL));
    CHECK(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL));
    context = clCreateContext(NULL, 1, &device, NULL, NULL, &error);
    CHECK(error);
    program = clCreateProgramWithSource(context, 1, &source, NULL, &error);
    CHECK(error);
    CHECK(clBuildProgram(program, 1, &device, "", NULL, NULL));
}

static cl_command_queue new_queue(cl_command_queue_properties properties) {
    cl_int error;
    cl_command_queue queue = clCreateCommandQueue(context, device, properties, &error);
    CHECK(error);
    return queue;
}

static cl_mem new_buffer(void) {
    cl_int error;
    cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, BYTES, NULL, &error);
    CHECK(error);
    return buffer;
}

static cl_kernel new_kernel(const char *name, cl_mem buffer) {
    cl_int error;
    cl_kernel kernel = clCreateKernel(program, name, &error);
    CHECK(error);
    CHECK(clSetKernelArg(kernel, 0, sizeof buffer, &buffer));
    return kernel;
}

static void run(cl_command_queue queue, cl_kernel kernel, cl_event *wait, cl_event *event) {
    size_t items = 64;
    CHECK(clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &items, NULL, !!wait, wait, event));
}

// ---- prime ----

typedef struct {
    const char *kernel;
    int kernels, writes, reads, timed;
    unsigned long written, read;
} work;

// An event of the program's own must answer as without the recorder.
static void count(work *w, cl_event event) {
    cl_ulong start = 0, end = 0;
    CHECK(clWaitForEvents(1, &event));
    CHECK(clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL));
    CHECK(clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL));
    w->timed += end >= start && start > 0;
    CHECK(clReleaseEvent(event));
}

static void *worker(void *data) {
    work *w = data;
    cl_command_queue queue = new_queue(CL_QUEUE_PROFILING_ENABLE);
    cl_mem buffer = new_buffer();
    cl_kernel kernel = new_kernel(w->kernel, buffer);
    static char zeros[BYTES];
    char *host = malloc(BYTES);
    cl_event event;
    for (int i = 0; i < w->writes; w->written += 1000 + i++) {
        int own = i % 3 == 0;
        CHECK(clEnqueueWriteBuffer(queue, buffer, i % 2, 0, 1000 + i, zeros, 0, NULL, own ? &event : NULL));
        if (own) count(w, event);
    }
    for (int i = 0; i < w->kernels; i++) {
        run(queue, kernel, NULL, i % 5 ? NULL : &event);
        if (i % 5 == 0) count(w, event);
    }
    for (int i = 0; i < w->reads; w->read += 3000 + i++)
        CHECK(clEnqueueReadBuffer(queue, buffer, i % 2, 0, 3000 + i, host, 0, NULL, NULL));
    CHECK(clFinish(queue));
    return NULL;
}

static void prime(void) {
    work w[2] = {{"scale", 800, 300, 100, 0, 0, 0}, {"shift", 209, 203, 151, 0, 0, 0}};
    pthread_t threads[2];
    setup();
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, worker, &w[i]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    printf("scale %d 0\nshift %d 0\n", w[0].kernels, w[1].kernels);
    printf("clEnqueueWriteBuffer %d %lu\n", w[0].writes + w[1].writes, w[0].written + w[1].written);
    printf("clEnqueueReadBuffer %d %lu\n", w[0].reads + w[1].reads, w[0].read + w[1].read);
    printf("timed %d 0\n", w[0].timed + w[1].timed);
}

// ---- kinds ----

static void made(const char *name, cl_int error, unsigned long bytes) {
    if (error == CL_SUCCESS) printf("%s 1 %lu\n", name, bytes);
    else fprintf(stderr, "%s: not here: %d\n", name, error);
}

static void buffers(cl_command_queue q, cl_mem a, cl_mem b, char *host) {
    size_t zero[3] = {0, 0, 0}, region[3] = {7, 11, 1};
    int pattern = 5;
    made("clEnqueueFillBuffer", clEnqueueFillBuffer(q, a, &pattern, 4, 0, 1024, 0, NULL, NULL), 1024);
    made("clEnqueueCopyBuffer", clEnqueueCopyBuffer(q, a, b, 0, 0, 509, 0, NULL, NULL), 509);
    made("clEnqueueReadBufferRect",
         clEnqueueReadBufferRect(q, a, CL_TRUE, zero, zero, region, 64, 0, 64, 0, host, 0, NULL, NULL), 77);
    made("clEnqueueWriteBufferRect",
         clEnqueueWriteBufferRect(q, a, CL_TRUE, zero, zero, region, 64, 0, 64, 0, host, 0, NULL, NULL), 77);
    made("clEnqueueCopyBufferRect",
         clEnqueueCopyBufferRect(q, a, b, zero, zero, region, 64, 0, 64, 0, 0, NULL, NULL), 77);
    made("clEnqueueMigrateMemObjects", clEnqueueMigrateMemObjects(q, 2, (cl_mem[]){a, b}, 0, 0, NULL, NULL),
         2 * BYTES);
    cl_int error;
    void *mapped = clEnqueueMapBuffer(q, a, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0, 300, 0, NULL, NULL, &error);
    made("clEnqueueMapBuffer", error, 300);
    made("clEnqueueUnmapMemObject", clEnqueueUnmapMemObject(q, a, mapped, 0, NULL, NULL), 300);
}

static void images(cl_command_queue q, cl_mem buffer, char *host) {
    cl_image_format format = {CL_RGBA, CL_UNSIGNED_INT8};
    cl_image_desc shape = {.image_type = CL_MEM_OBJECT_IMAGE2D, .image_width = 16, .image_height = 16};
    size_t zero[3] = {0, 0, 0}, region[3] = {5, 3, 1}, row, slice;
    cl_uint color[4] = {1, 2, 3, 4};
    cl_int error;
    cl_mem a = clCreateImage(context, CL_MEM_READ_WRITE, &format, &shape, NULL, &error);
    if (error) return made("clCreateImage", error, 0);
    cl_mem b = clCreateImage(context, CL_MEM_READ_WRITE, &format, &shape, NULL, &error);
    made("clEnqueueFillImage", clEnqueueFillImage(q, a, color, zero, region, 0, NULL, NULL), 60);
    made("clEnqueueWriteImage", clEnqueueWriteImage(q, a, CL_TRUE, zero, region, 0, 0, host, 0, NULL, NULL), 60);
    made("clEnqueueReadImage", clEnqueueReadImage(q, a, CL_TRUE, zero, region, 0, 0, host, 0, NULL, NULL), 60);
    made("clEnqueueCopyImage", clEnqueueCopyImage(q, a, b, zero, zero, region, 0, NULL, NULL), 60);
    made("clEnqueueCopyImageToBuffer", clEnqueueCopyImageToBuffer(q, a, buffer, zero, region, 0, 0, NULL, NULL), 60);
    made("clEnqueueCopyBufferToImage", clEnqueueCopyBufferToImage(q, buffer, a, 0, zero, region, 0, NULL, NULL), 60);
    void *mapped = clEnqueueMapImage(q, a, CL_TRUE, CL_MAP_READ, zero, region, &row, &slice, 0, NULL, NULL, &error);
    made("clEnqueueMapImage", error, 60);
    if (!error) CHECK(clEnqueueUnmapMemObject(q, a, mapped, 0, NULL, NULL));
}

static void shared(cl_command_queue q) {
    char *a = clSVMAlloc(context, CL_MEM_READ_WRITE, 4096, 0), *b = clSVMAlloc(context, CL_MEM_READ_WRITE, 4096, 0);
    int pattern = 3;
    size_t sizes[1] = {4096};
    if (!a || !b) return made("clSVMAlloc", -1, 0);
    made("clEnqueueSVMMemFill", clEnqueueSVMMemFill(q, a, &pattern, 4, 400, 0, NULL, NULL), 400);
    made("clEnqueueSVMMemcpy", clEnqueueSVMMemcpy(q, CL_TRUE, b, a, 311, 0, NULL, NULL), 311);
    made("clEnqueueSVMMap", clEnqueueSVMMap(q, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION, a, 128, 0, NULL, NULL), 0);
    made("clEnqueueSVMUnmap", clEnqueueSVMUnmap(q, a, 0, NULL, NULL), 128);
    made("clEnqueueSVMMigrateMem", clEnqueueSVMMigrateMem(q, 1, (const void **)&b, sizes, 0, 0, NULL, NULL), 4096);
    CHECK(clFinish(q));
    CHECK(clEnqueueSVMFree(q, 2, (void *[]){a, b}, NULL, NULL, 0, NULL, NULL));   // moves nothing: no row
}

static void CL_CALLBACK native(void *arguments) { *(int **)arguments ? (void)0 : abort(); }

static void kinds(void) {
    static char host[BYTES];
    static int *argument = (int *)host;
    setup();
    cl_command_queue q = new_queue(0);
    cl_mem a = new_buffer(), b = new_buffer();
    buffers(q, a, b, host);
    images(q, a, host);
    shared(q);
    made("scale", clEnqueueTask(q, new_kernel("scale", a), 0, NULL, NULL), 0);
    made("clEnqueueNativeKernel",
         clEnqueueNativeKernel(q, native, &argument, sizeof argument, 0, NULL, NULL, 0, NULL, NULL), 0);
    CHECK(clEnqueueMarkerWithWaitList(q, 0, NULL, NULL));   // neither moves nor computes: no row
    CHECK(clEnqueueBarrierWithWaitList(q, 0, NULL, NULL));
    CHECK(clFinish(q));
}

// ---- the others ----

static void unfinished(int done, int waiting, int kill_me) {
    setup();
    cl_int error;
    cl_command_queue q = new_queue(0);
    cl_kernel kernel = new_kernel("scale", new_buffer());
    for (int i = 0; i < done; i++) run(q, kernel, NULL, NULL);
    CHECK(clFinish(q));
    cl_event never = clCreateUserEvent(context, &error);
    CHECK(error);
    for (int i = 0; i < waiting; i++) run(q, kernel, &never, NULL);
    printf("scale %d 0\n", done);
    fflush(stdout);
    if (kill_me) raise(SIGKILL);
    exit(0);
}

static void refused(void) {
    static char host[2 * BYTES];
    setup();
    cl_command_queue q = new_queue(0);
    cl_mem buffer = new_buffer();
    for (int i = 0; i < 11; i++)
        if (!clEnqueueWriteBuffer(q, buffer, CL_TRUE, 0, 2 * BYTES, host, 0, NULL, NULL)) exit(4);
    for (int i = 0; i < 5; i++) CHECK(clEnqueueWriteBuffer(q, buffer, CL_TRUE, 0, BYTES, host, 0, NULL, NULL));
    printf("clEnqueueWriteBuffer 5 %d\n", 5 * BYTES);
}

static void write_times(int n) {
    static char host[BYTES];
    setup();
    cl_command_queue q = new_queue(0);
    cl_mem buffer = new_buffer();
    for (int i = 0; i < n; i++) CHECK(clEnqueueWriteBuffer(q, buffer, CL_TRUE, 0, 100, host, 0, NULL, NULL));
}

static void forked(void) {
    cl_uint n;
    CHECK(clGetPlatformIDs(0, NULL, &n));      // the loader and its layers are there before the fork
    pid_t child = fork();
    write_times(child ? 19 : 23);
    if (!child) exit(0);
    waitpid(child, NULL, 0);
    printf("clEnqueueWriteBuffer 42 4200\n");
}

static void profiling(void) {
    setup();
    cl_queue_properties list[] = {CL_QUEUE_PROPERTIES, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, 0}, seen[8];
    cl_command_queue_properties bits = ~0ul;
    size_t size = 0;
    cl_int error;
    cl_command_queue q = clCreateCommandQueueWithProperties(context, device, list, &error);
    CHECK(error);
    CHECK(clGetCommandQueueInfo(q, CL_QUEUE_PROPERTIES, sizeof bits, &bits, NULL));
    if (bits != CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) exit(4);
    CHECK(clGetCommandQueueInfo(q, CL_QUEUE_PROPERTIES_ARRAY, sizeof seen, seen, &size));
    if (size != sizeof list || memcmp(seen, list, size)) exit(5);
    CHECK(clGetCommandQueueInfo(new_queue(CL_QUEUE_PROFILING_ENABLE), CL_QUEUE_PROPERTIES, sizeof bits, &bits, NULL));
    if (bits != CL_QUEUE_PROFILING_ENABLE) exit(6);
    cl_kernel kernel = new_kernel("shift", new_buffer());
    for (int i = 0; i < 17; i++) run(q, kernel, NULL, NULL);
    CHECK(clFinish(q));
    printf("shift 17 0\n");
}

static void bench(int n) {
    struct timespec a, b;
    setup();
    cl_command_queue q = new_queue(0);
    cl_kernel kernel = new_kernel("scale", new_buffer());
    for (int i = 0; i < 100; i++) run(q, kernel, NULL, NULL);
    CHECK(clFinish(q));
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < n; i++) {
        run(q, kernel, NULL, NULL);
        if (i % 100 == 99) CHECK(clFinish(q));
    }
    CHECK(clFinish(q));
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%.0f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / n);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "prime";
    if (!strcmp(mode, "prime")) prime();
    else if (!strcmp(mode, "kinds")) kinds();
    else if (!strcmp(mode, "leave")) unfinished(97, 13, 0);
    else if (!strcmp(mode, "killed")) unfinished(101, 7, 1);
    else if (!strcmp(mode, "refused")) refused();
    else if (!strcmp(mode, "fork")) forked();
    else if (!strcmp(mode, "profiling")) profiling();
    else if (!strcmp(mode, "bench")) bench(atoi(argv[2]));
    else return 2;
    return 0;
}
