// An OpenCL layer that records every command of an unmodified program: OPENCL_LAYERS=/path/to/this.so.
//
//   program --clEnqueue*--> loader --> this layer --> driver
//                                        |  begin(): a slot, CLOCK_MONOTONIC before the call
//                                        |  end():   CLOCK_MONOTONIC after it, a completion callback
//                                        v
//                            spool file (clspool.h): completed() writes queued, submit, start, end
//
// Each wrapper always asks the driver for an event; the program gets that very event when it asked for one.
// Profiling is on in every queue; a program that asks for its queue's properties sees those it gave.
// A map is a copy to the host of its bytes (none when they are to be overwritten), an unmap one to the
// device of the bytes that were mapped for writing. Recorded with 0 bytes where OpenCL does not say how many.
//
// Not recorded, since the device moves and computes nothing for them: markers, barriers, clEnqueueSVMFree, and
// acquiring and releasing objects of graphics interfaces. Not seen: commands of extensions, which programs
// call by address (which of those were looked up is noted), and kernels that are enqueued by kernels.
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_0_APIS
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <CL/cl_icd.h>
#include <CL/cl_layer.h>
#include <stddef.h>

#include "clspool.h"

#define HANDLE_BUCKETS 1024
#define MAX_DEVICES 256
#define TIMER_EVERY_NS 1000000000ll
#define EXPORT __attribute__((visibility("default")))

enum { KERNEL, H2D, D2H, D2D, MEMSET, MIGRATE = 7 };   // AccelKind

typedef struct queue {
    struct queue *next;
    cl_command_queue handle;
    uint32_t id;
    uint16_t device;
    cl_bool timed;                             // the program itself asked for profiling
    size_t asked_bytes;                        // of the property list it gave
    cl_queue_properties *asked;
} queue;

typedef struct mapping {
    struct mapping *next;
    const void *pointer;
    uint64_t bytes;                            // to be written back
} mapping;

typedef struct {
    slot *slot;
    cl_event event;
} command;

static struct _cl_icd_dispatch layer;
static const struct _cl_icd_dispatch *driver;
static int has_timer;                          // the loader's table reaches as far as clGetDeviceAndHostTimer
static _Atomic(queue *) queues[HANDLE_BUCKETS];
static mapping *mappings[HANDLE_BUCKETS], *spare_mappings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { cl_device_id handle; _Atomic int64_t asked_ns; } devices[MAX_DEVICES];
static uint32_t n_devices, n_queues;
static _Atomic int64_t outstanding;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;

static size_t bucket_of(const void *handle) { return ((uintptr_t)handle >> 4) * 0x9E3779B1u % HANDLE_BUCKETS; }

// ---- completion ----

static void read_times(slot *s, cl_event event) {
    static const cl_profiling_info ask[4] = {CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_SUBMIT,
                                             CL_PROFILING_COMMAND_START, CL_PROFILING_COMMAND_END};
    cl_ulong t[4];
    cl_int error = CL_SUCCESS;
    for (int i = 0; i < 4 && !error; i++)
        error = driver->clGetEventProfilingInfo(event, ask[i], sizeof t[i], &t[i], NULL);
    if (!error) s->queued = t[0], s->submit = t[1], s->start = t[2], s->end = t[3];
    set_state(s, error ? UNTIMED : DONE);
}

static void CL_CALLBACK completed(cl_event event, cl_int status, void *data) {
    slot *s = data;
    int64_t done_ns = now_ns();
    if (!take(s)) return;                      // at_exit() was faster
    s->done_ns = done_ns;
    if (status == CL_COMPLETE) read_times(s, event);
    else set_state(s, FAILED);
    atomic_fetch_sub(&outstanding, 1);
    driver->clReleaseEvent(event);
}

// Read the times of commands that have completed but whose callback the driver had no time to call.
static void at_exit(void) {
    if (atomic_load(&spool.ready) <= 0) return;
    for (uint64_t i = atomic_load(&spool.head->slots); i-- && atomic_load(&outstanding) > 0;) {
        slot *chunk = i / CHUNK_SLOTS < MAX_CHUNKS ? atomic_load(&spool.chunks[i / CHUNK_SLOTS]) : NULL;
        cl_int status = CL_QUEUED;
        if (!chunk || !take(&chunk[i % CHUNK_SLOTS])) continue;
        slot *s = &chunk[i % CHUNK_SLOTS];
        cl_event event = (cl_event)(uintptr_t)s->event;
        driver->clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
        s->done_ns = now_ns();
        if (status == CL_COMPLETE) read_times(s, event);
        else set_state(s, PENDING);
        atomic_fetch_sub(&outstanding, 1);
    }
}

static void register_exit(void) { atexit(at_exit); }

// ---- devices and queues ----

static uint32_t ordinal_of(cl_platform_id platform, cl_device_id device) {
    cl_device_id all[MAX_DEVICES];
    cl_uint n = 0;
    if (driver->clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, MAX_DEVICES, all, &n)) return MAX_DEVICES;
    uint32_t i = 0;
    while (i < n && i < MAX_DEVICES && all[i] != device) i++;
    return i < n ? i : MAX_DEVICES;
}

// Write what the device is called: platform, name, and its place among the platform's devices.
static void name_device(cl_device_id device) {
    char text[1024], model[256] = "?", platform_name[256] = "?", place[32] = "part of a device";
    cl_platform_id platform = NULL;
    driver->clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof model, model, NULL);
    driver->clGetDeviceInfo(device, CL_DEVICE_PLATFORM, sizeof(cl_platform_id), &platform, NULL);
    driver->clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof platform_name, platform_name, NULL);
    uint32_t ordinal = ordinal_of(platform, device);
    if (ordinal < MAX_DEVICES) snprintf(place, sizeof place, "device %u", ordinal);
    snprintf(text, sizeof text, "%s: %s (%s)", platform_name, model, place);
    name_id(NAME_DEVICE, text);
}

static uint16_t device_index(cl_device_id device) {
    uint32_t i = 0;
    while (i < n_devices && devices[i].handle != device) i++;
    if (i == n_devices && n_devices < MAX_DEVICES) devices[n_devices++].handle = device;
    return i < MAX_DEVICES ? i : MAX_DEVICES - 1;
}

static queue *find_queue(cl_command_queue handle) {
    queue *at = atomic_load_explicit(&queues[bucket_of(handle)], memory_order_acquire);
    while (at && at->handle != handle) at = at->next;
    return at;
}

// Remember a queue; a handle that was in use before means another queue from now on.
static queue *add_queue(cl_command_queue handle, cl_device_id device, cl_bool timed,
                        const cl_queue_properties *asked, size_t n) {
    pthread_mutex_lock(&lock);
    queue *q = find_queue(handle);
    if (!q && (q = calloc(1, sizeof *q))) {
        q->handle = handle;
        q->next = atomic_load(&queues[bucket_of(handle)]);
        atomic_store_explicit(&queues[bucket_of(handle)], q, memory_order_release);
    }
    if (q) {
        q->id = n_queues++;
        q->device = device_index(device);
        q->timed = timed;
        free(q->asked);
        q->asked = n ? malloc(n * sizeof *asked) : NULL;
        q->asked_bytes = q->asked ? n * sizeof *asked : 0;
        if (q->asked) memcpy(q->asked, asked, q->asked_bytes);
    }
    pthread_mutex_unlock(&lock);
    return q;
}

// Return what is known of a queue; one that this layer did not see made (by an extension) is asked for its device.
static queue *queue_of(cl_command_queue handle) {
    queue *q = find_queue(handle);
    cl_device_id device = NULL;
    if (q) return q;
    if (driver->clGetCommandQueueInfo(handle, CL_QUEUE_DEVICE, sizeof device, &device, NULL)) return NULL;
    return add_queue(handle, device, CL_TRUE, NULL, 0);
}

static cl_command_queue CL_API_CALL create_queue(cl_context context, cl_device_id device,
                                                 cl_command_queue_properties properties, cl_int *error) {
    cl_command_queue made =
        driver->clCreateCommandQueue(context, device, properties | CL_QUEUE_PROFILING_ENABLE, error);
    if (made) add_queue(made, device, !!(properties & CL_QUEUE_PROFILING_ENABLE), NULL, 0);
    return made;
}

static cl_command_queue CL_API_CALL create_queue_with_properties(cl_context context, cl_device_id device,
                                                                 const cl_queue_properties *asked, cl_int *error) {
    size_t n = 0;
    cl_queue_properties bits = 0;
    for (; asked && asked[n]; n += 2)
        if (asked[n] == CL_QUEUE_PROPERTIES) bits = asked[n + 1];
    cl_queue_properties *given = malloc((n + 3) * sizeof *given);
    if (!given) return driver->clCreateCommandQueueWithProperties(context, device, asked, error);
    size_t kept = 0;
    for (size_t i = 0; i < n; i += 2)
        if (asked[i] != CL_QUEUE_PROPERTIES) given[kept++] = asked[i], given[kept++] = asked[i + 1];
    given[kept++] = CL_QUEUE_PROPERTIES;
    given[kept++] = bits | CL_QUEUE_PROFILING_ENABLE;
    given[kept] = 0;
    cl_command_queue made = driver->clCreateCommandQueueWithProperties(context, device, given, error);
    free(given);
    if (made) add_queue(made, device, !!(bits & CL_QUEUE_PROFILING_ENABLE), asked, asked ? n + 1 : 0);
    return made;
}

static cl_int CL_API_CALL queue_info(cl_command_queue handle, cl_command_queue_info what, size_t size, void *value,
                                     size_t *size_ret) {
    queue *q = find_queue(handle);
    if (q && what == CL_QUEUE_PROPERTIES_ARRAY) {
        if (value && size < q->asked_bytes) return CL_INVALID_VALUE;
        if (value && q->asked_bytes) memcpy(value, q->asked, q->asked_bytes);
        if (size_ret) *size_ret = q->asked_bytes;
        return CL_SUCCESS;
    }
    cl_int error = driver->clGetCommandQueueInfo(handle, what, size, value, size_ret);
    if (q && !q->timed && !error && value && what == CL_QUEUE_PROPERTIES)
        *(cl_command_queue_properties *)value &= ~(cl_command_queue_properties)CL_QUEUE_PROFILING_ENABLE;
    return error;
}

static cl_int CL_API_CALL set_queue_property(cl_command_queue handle, cl_command_queue_properties bits,
                                             cl_bool enable, cl_command_queue_properties *old) {
    const cl_command_queue_properties timed = CL_QUEUE_PROFILING_ENABLE;
    queue *q = queue_of(handle);
    cl_int error = driver->clSetCommandQueueProperty(handle, enable ? bits : bits & ~timed, enable, old);
    if (error || !q) return error;
    if (old && !q->timed) *old &= ~timed;
    if (bits & timed) q->timed = enable;
    return error;
}

static void *noted(const char *name, void *address) {
    if (address && !strncmp(name, "clEnqueue", 9)) name_id(NAME_EXTENSION, name);
    return address;
}
static void *CL_API_CALL extension(const char *name) {
    return noted(name, driver->clGetExtensionFunctionAddress(name));
}
static void *CL_API_CALL platform_extension(cl_platform_id platform, const char *name) {
    return noted(name, driver->clGetExtensionFunctionAddressForPlatform(platform, name));
}

// ---- one command ----

// Once a second and device, note what its clock says: it bounds the offset between the two clocks.
static void ask_timer(uint16_t device, int64_t t_ns) {
    int64_t asked_ns = atomic_load_explicit(&devices[device].asked_ns, memory_order_relaxed);
    if (asked_ns && t_ns - asked_ns < TIMER_EVERY_NS) return;
    if (!atomic_compare_exchange_strong(&devices[device].asked_ns, &asked_ns, t_ns)) return;
    if (!asked_ns) name_device(devices[device].handle);
    cl_ulong device_ns, host_ns;
    int64_t before_ns = now_ns();
    if (!has_timer || driver->clGetDeviceAndHostTimer(devices[device].handle, &device_ns, &host_ns)) return;
    int64_t after_ns = now_ns();
    slot *s = spool_slot();
    if (!s) return;
    s->device = device;
    s->before_ns = before_ns, s->after_ns = s->done_ns = after_ns;
    s->queued = s->end = device_ns;
    set_state(s, CLOCK);
}

static command begin(cl_command_queue handle, uint8_t kind, const char *name, uint64_t bytes, const void *address) {
    command c = {NULL, NULL};
    queue *q = queue_of(handle);
    if (!q || !spool_open()) return c;
    int64_t before_ns = now_ns();
    ask_timer(q->device, before_ns);
    if (!(c.slot = spool_slot())) return c;
    c.slot->before_ns = before_ns;
    c.slot->name = name_id(NAME_COMMAND, name);
    c.slot->queue = q->id;
    c.slot->device = q->device;
    c.slot->kind = kind;
    c.slot->bytes = bytes;
    c.slot->address = (uintptr_t)address;
    set_state(c.slot, ENTERED);
    return c;
}

static cl_int end(command *c, cl_event *event, cl_int error) {
    slot *s = c->slot;
    if (error) {
        if (s) set_state(s, REFUSED);
        return error;
    }
    int64_t after_ns = now_ns();
    if (event) {
        driver->clRetainEvent(c->event);       // one for the program, one for completed()
        *event = c->event;
    }
    if (!s) {
        if (atomic_load(&spool.ready) > 0) atomic_fetch_add(&spool.head->no_room, 1);
        driver->clReleaseEvent(c->event);
        return error;
    }
    // Not before the first command: what the driver registers for exit as it starts runs after ours.
    pthread_once(&exit_once, register_exit);
    s->after_ns = after_ns;
    s->event = (uintptr_t)c->event;
    atomic_fetch_add(&outstanding, 1);
    set_state(s, PENDING);
    if (driver->clSetEventCallback(c->event, CL_COMPLETE, completed, s) && take(s)) {
        set_state(s, UNTIMED);
        atomic_fetch_sub(&outstanding, 1);
        driver->clReleaseEvent(c->event);
    }
    return error;
}

static uint64_t volume(const size_t *region) { return region ? (uint64_t)region[0] * region[1] * region[2] : 0; }

static uint64_t image_bytes(cl_mem image, const size_t *region) {
    size_t element = 0;
    driver->clGetImageInfo(image, CL_IMAGE_ELEMENT_SIZE, sizeof element, &element, NULL);
    return volume(region) * element;
}

static void remember_mapping(const void *pointer, uint64_t bytes) {
    if (!pointer) return;
    pthread_mutex_lock(&lock);
    mapping *m = spare_mappings;
    if (m) spare_mappings = m->next;
    else m = malloc(sizeof *m);
    if (m) *m = (mapping){mappings[bucket_of(pointer)], pointer, bytes}, mappings[bucket_of(pointer)] = m;
    pthread_mutex_unlock(&lock);
}

static uint64_t forget_mapping(const void *pointer) {
    uint64_t bytes = 0;
    pthread_mutex_lock(&lock);
    mapping **at = &mappings[bucket_of(pointer)];
    while (*at && (*at)->pointer != pointer) at = &(*at)->next;
    mapping *m = *at;
    if (m) bytes = m->bytes, *at = m->next, m->next = spare_mappings, spare_mappings = m;
    pthread_mutex_unlock(&lock);
    return bytes;
}

static uint64_t bytes_read(cl_map_flags flags, uint64_t bytes) {
    return flags & CL_MAP_WRITE_INVALIDATE_REGION ? 0 : bytes;
}
static uint64_t bytes_written(cl_map_flags flags, uint64_t bytes) {
    return flags & (CL_MAP_WRITE | CL_MAP_WRITE_INVALIDATE_REGION) ? bytes : 0;
}

// ---- kernels ----

static command begin_kernel(cl_command_queue q, cl_kernel kernel) {
    char text[1024], *longer = NULL;
    size_t size = 0;
    if (driver->clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, sizeof text, text, NULL)) {
        strcpy(text, "?");
        driver->clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, 0, NULL, &size);
        if (size && (longer = malloc(size)))
            driver->clGetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, size, longer, NULL);
    }
    command c = begin(q, KERNEL, longer ? longer : text, 0, NULL);
    free(longer);
    return c;
}

static cl_int CL_API_CALL ndrange_kernel(cl_command_queue q, cl_kernel kernel, cl_uint dimensions,
                                         const size_t *offset, const size_t *global, const size_t *local, cl_uint n,
                                         const cl_event *wait, cl_event *event) {
    command c = begin_kernel(q, kernel);
    return end(&c, event, driver->clEnqueueNDRangeKernel(q, kernel, dimensions, offset, global, local, n, wait,
                                                         &c.event));
}

static cl_int CL_API_CALL task(cl_command_queue q, cl_kernel kernel, cl_uint n, const cl_event *wait,
                               cl_event *event) {
    command c = begin_kernel(q, kernel);
    return end(&c, event, driver->clEnqueueTask(q, kernel, n, wait, &c.event));
}

static cl_int CL_API_CALL native_kernel(cl_command_queue q, void(CL_CALLBACK *function)(void *), void *arguments,
                                        size_t size, cl_uint n_mem, const cl_mem *mem, const void **places,
                                        cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, KERNEL, "clEnqueueNativeKernel", 0, NULL);
    return end(&c, event, driver->clEnqueueNativeKernel(q, function, arguments, size, n_mem, mem, places, n, wait,
                                                        &c.event));
}

// ---- buffers ----

static cl_int CL_API_CALL read_buffer(cl_command_queue q, cl_mem buffer, cl_bool blocking, size_t offset,
                                      size_t size, void *host, cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, D2H, "clEnqueueReadBuffer", size, host);
    return end(&c, event, driver->clEnqueueReadBuffer(q, buffer, blocking, offset, size, host, n, wait, &c.event));
}

static cl_int CL_API_CALL write_buffer(cl_command_queue q, cl_mem buffer, cl_bool blocking, size_t offset,
                                       size_t size, const void *host, cl_uint n, const cl_event *wait,
                                       cl_event *event) {
    command c = begin(q, H2D, "clEnqueueWriteBuffer", size, host);
    return end(&c, event, driver->clEnqueueWriteBuffer(q, buffer, blocking, offset, size, host, n, wait, &c.event));
}

static cl_int CL_API_CALL read_buffer_rect(cl_command_queue q, cl_mem buffer, cl_bool blocking,
                                           const size_t *origin, const size_t *host_origin, const size_t *region,
                                           size_t row, size_t slice, size_t host_row, size_t host_slice, void *host,
                                           cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, D2H, "clEnqueueReadBufferRect", volume(region), host);
    return end(&c, event, driver->clEnqueueReadBufferRect(q, buffer, blocking, origin, host_origin, region, row,
                                                          slice, host_row, host_slice, host, n, wait, &c.event));
}

static cl_int CL_API_CALL write_buffer_rect(cl_command_queue q, cl_mem buffer, cl_bool blocking,
                                            const size_t *origin, const size_t *host_origin, const size_t *region,
                                            size_t row, size_t slice, size_t host_row, size_t host_slice,
                                            const void *host, cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, H2D, "clEnqueueWriteBufferRect", volume(region), host);
    return end(&c, event, driver->clEnqueueWriteBufferRect(q, buffer, blocking, origin, host_origin, region, row,
                                                           slice, host_row, host_slice, host, n, wait, &c.event));
}

static cl_int CL_API_CALL copy_buffer(cl_command_queue q, cl_mem from, cl_mem to, size_t from_offset,
                                      size_t to_offset, size_t size, cl_uint n, const cl_event *wait,
                                      cl_event *event) {
    command c = begin(q, D2D, "clEnqueueCopyBuffer", size, NULL);
    return end(&c, event, driver->clEnqueueCopyBuffer(q, from, to, from_offset, to_offset, size, n, wait, &c.event));
}

static cl_int CL_API_CALL copy_buffer_rect(cl_command_queue q, cl_mem from, cl_mem to, const size_t *from_origin,
                                           const size_t *to_origin, const size_t *region, size_t from_row,
                                           size_t from_slice, size_t to_row, size_t to_slice, cl_uint n,
                                           const cl_event *wait, cl_event *event) {
    command c = begin(q, D2D, "clEnqueueCopyBufferRect", volume(region), NULL);
    return end(&c, event, driver->clEnqueueCopyBufferRect(q, from, to, from_origin, to_origin, region, from_row,
                                                          from_slice, to_row, to_slice, n, wait, &c.event));
}

static cl_int CL_API_CALL fill_buffer(cl_command_queue q, cl_mem buffer, const void *pattern, size_t pattern_size,
                                      size_t offset, size_t size, cl_uint n, const cl_event *wait,
                                      cl_event *event) {
    command c = begin(q, MEMSET, "clEnqueueFillBuffer", size, NULL);
    return end(&c, event, driver->clEnqueueFillBuffer(q, buffer, pattern, pattern_size, offset, size, n, wait,
                                                      &c.event));
}

// ---- images ----

static cl_int CL_API_CALL read_image(cl_command_queue q, cl_mem image, cl_bool blocking, const size_t *origin,
                                     const size_t *region, size_t row, size_t slice, void *host, cl_uint n,
                                     const cl_event *wait, cl_event *event) {
    command c = begin(q, D2H, "clEnqueueReadImage", image_bytes(image, region), host);
    return end(&c, event, driver->clEnqueueReadImage(q, image, blocking, origin, region, row, slice, host, n, wait,
                                                     &c.event));
}

static cl_int CL_API_CALL write_image(cl_command_queue q, cl_mem image, cl_bool blocking, const size_t *origin,
                                      const size_t *region, size_t row, size_t slice, const void *host, cl_uint n,
                                      const cl_event *wait, cl_event *event) {
    command c = begin(q, H2D, "clEnqueueWriteImage", image_bytes(image, region), host);
    return end(&c, event, driver->clEnqueueWriteImage(q, image, blocking, origin, region, row, slice, host, n, wait,
                                                      &c.event));
}

static cl_int CL_API_CALL fill_image(cl_command_queue q, cl_mem image, const void *color, const size_t *origin,
                                     const size_t *region, cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, MEMSET, "clEnqueueFillImage", image_bytes(image, region), NULL);
    return end(&c, event, driver->clEnqueueFillImage(q, image, color, origin, region, n, wait, &c.event));
}

static cl_int CL_API_CALL copy_image(cl_command_queue q, cl_mem from, cl_mem to, const size_t *from_origin,
                                     const size_t *to_origin, const size_t *region, cl_uint n, const cl_event *wait,
                                     cl_event *event) {
    command c = begin(q, D2D, "clEnqueueCopyImage", image_bytes(from, region), NULL);
    return end(&c, event, driver->clEnqueueCopyImage(q, from, to, from_origin, to_origin, region, n, wait,
                                                     &c.event));
}

static cl_int CL_API_CALL copy_image_to_buffer(cl_command_queue q, cl_mem image, cl_mem buffer,
                                               const size_t *origin, const size_t *region, size_t offset, cl_uint n,
                                               const cl_event *wait, cl_event *event) {
    command c = begin(q, D2D, "clEnqueueCopyImageToBuffer", image_bytes(image, region), NULL);
    return end(&c, event, driver->clEnqueueCopyImageToBuffer(q, image, buffer, origin, region, offset, n, wait,
                                                             &c.event));
}

static cl_int CL_API_CALL copy_buffer_to_image(cl_command_queue q, cl_mem buffer, cl_mem image, size_t offset,
                                               const size_t *origin, const size_t *region, cl_uint n,
                                               const cl_event *wait, cl_event *event) {
    command c = begin(q, D2D, "clEnqueueCopyBufferToImage", image_bytes(image, region), NULL);
    return end(&c, event, driver->clEnqueueCopyBufferToImage(q, buffer, image, offset, origin, region, n, wait,
                                                             &c.event));
}

// ---- maps and migrations ----

static void *CL_API_CALL map_buffer(cl_command_queue q, cl_mem buffer, cl_bool blocking, cl_map_flags flags,
                                    size_t offset, size_t size, cl_uint n, const cl_event *wait, cl_event *event,
                                    cl_int *error_ret) {
    cl_int error = CL_SUCCESS;
    command c = begin(q, D2H, "clEnqueueMapBuffer", bytes_read(flags, size), NULL);
    void *host = driver->clEnqueueMapBuffer(q, buffer, blocking, flags, offset, size, n, wait, &c.event, &error);
    if (c.slot) c.slot->address = (uintptr_t)host;
    if (!error) remember_mapping(host, bytes_written(flags, size));
    end(&c, event, error);
    if (error_ret) *error_ret = error;
    return host;
}

static void *CL_API_CALL map_image(cl_command_queue q, cl_mem image, cl_bool blocking, cl_map_flags flags,
                                   const size_t *origin, const size_t *region, size_t *row, size_t *slice,
                                   cl_uint n, const cl_event *wait, cl_event *event, cl_int *error_ret) {
    cl_int error = CL_SUCCESS;
    uint64_t size = image_bytes(image, region);
    command c = begin(q, D2H, "clEnqueueMapImage", bytes_read(flags, size), NULL);
    void *host = driver->clEnqueueMapImage(q, image, blocking, flags, origin, region, row, slice, n, wait, &c.event,
                                           &error);
    if (c.slot) c.slot->address = (uintptr_t)host;
    if (!error) remember_mapping(host, bytes_written(flags, size));
    end(&c, event, error);
    if (error_ret) *error_ret = error;
    return host;
}

static cl_int CL_API_CALL unmap(cl_command_queue q, cl_mem mem, void *host, cl_uint n, const cl_event *wait,
                                cl_event *event) {
    uint64_t size = forget_mapping(host);
    command c = begin(q, H2D, "clEnqueueUnmapMemObject", size, host);
    cl_int error = driver->clEnqueueUnmapMemObject(q, mem, host, n, wait, &c.event);
    if (error) remember_mapping(host, size);
    return end(&c, event, error);
}

static cl_int CL_API_CALL migrate(cl_command_queue q, cl_uint n_mem, const cl_mem *mem, cl_mem_migration_flags flags,
                                  cl_uint n, const cl_event *wait, cl_event *event) {
    uint64_t bytes = 0;
    for (cl_uint i = 0; mem && i < n_mem; i++) {
        size_t size = 0;
        driver->clGetMemObjectInfo(mem[i], CL_MEM_SIZE, sizeof size, &size, NULL);
        bytes += size;
    }
    command c = begin(q, MIGRATE, "clEnqueueMigrateMemObjects", bytes, NULL);
    return end(&c, event, driver->clEnqueueMigrateMemObjects(q, n_mem, mem, flags, n, wait, &c.event));
}

// ---- shared virtual memory ----

static cl_int CL_API_CALL svm_copy(cl_command_queue q, cl_bool blocking, void *to, const void *from, size_t size,
                                   cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, D2D, "clEnqueueSVMMemcpy", size, to);
    return end(&c, event, driver->clEnqueueSVMMemcpy(q, blocking, to, from, size, n, wait, &c.event));
}

static cl_int CL_API_CALL svm_fill(cl_command_queue q, void *to, const void *pattern, size_t pattern_size,
                                   size_t size, cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, MEMSET, "clEnqueueSVMMemFill", size, to);
    return end(&c, event, driver->clEnqueueSVMMemFill(q, to, pattern, pattern_size, size, n, wait, &c.event));
}

static cl_int CL_API_CALL svm_map(cl_command_queue q, cl_bool blocking, cl_map_flags flags, void *host, size_t size,
                                  cl_uint n, const cl_event *wait, cl_event *event) {
    command c = begin(q, D2H, "clEnqueueSVMMap", bytes_read(flags, size), host);
    cl_int error = driver->clEnqueueSVMMap(q, blocking, flags, host, size, n, wait, &c.event);
    if (!error) remember_mapping(host, bytes_written(flags, size));
    return end(&c, event, error);
}

static cl_int CL_API_CALL svm_unmap(cl_command_queue q, void *host, cl_uint n, const cl_event *wait,
                                    cl_event *event) {
    uint64_t size = forget_mapping(host);
    command c = begin(q, H2D, "clEnqueueSVMUnmap", size, host);
    cl_int error = driver->clEnqueueSVMUnmap(q, host, n, wait, &c.event);
    if (error) remember_mapping(host, size);
    return end(&c, event, error);
}

static cl_int CL_API_CALL svm_migrate(cl_command_queue q, cl_uint n_pointers, const void **pointers,
                                      const size_t *sizes, cl_mem_migration_flags flags, cl_uint n,
                                      const cl_event *wait, cl_event *event) {
    uint64_t bytes = 0;
    for (cl_uint i = 0; sizes && i < n_pointers; i++) bytes += sizes[i];
    command c = begin(q, MIGRATE, "clEnqueueSVMMigrateMem", bytes, pointers && n_pointers ? pointers[0] : NULL);
    return end(&c, event, driver->clEnqueueSVMMigrateMem(q, n_pointers, pointers, sizes, flags, n, wait, &c.event));
}

// ---- the layer ----

static void before_fork(void) { pthread_mutex_lock(&lock), spool_before_fork(); }
static void in_parent(void) { spool_parent(), pthread_mutex_unlock(&lock); }
static void in_child(void) {
    spool_child();
    pthread_mutex_init(&lock, NULL);
    atomic_store(&outstanding, 0);
    for (uint32_t i = 0; i < n_devices; i++) atomic_store(&devices[i].asked_ns, 0);
}

static void fill_table(void) {
    layer.clCreateCommandQueue = create_queue;
    layer.clCreateCommandQueueWithProperties = create_queue_with_properties;
    layer.clGetCommandQueueInfo = queue_info;
    layer.clSetCommandQueueProperty = set_queue_property;
    layer.clGetExtensionFunctionAddress = extension;
    layer.clGetExtensionFunctionAddressForPlatform = platform_extension;
    layer.clEnqueueNDRangeKernel = ndrange_kernel;
    layer.clEnqueueTask = task;
    layer.clEnqueueNativeKernel = native_kernel;
    layer.clEnqueueReadBuffer = read_buffer;
    layer.clEnqueueWriteBuffer = write_buffer;
    layer.clEnqueueReadBufferRect = read_buffer_rect;
    layer.clEnqueueWriteBufferRect = write_buffer_rect;
    layer.clEnqueueCopyBuffer = copy_buffer;
    layer.clEnqueueCopyBufferRect = copy_buffer_rect;
    layer.clEnqueueFillBuffer = fill_buffer;
    layer.clEnqueueReadImage = read_image;
    layer.clEnqueueWriteImage = write_image;
    layer.clEnqueueFillImage = fill_image;
    layer.clEnqueueCopyImage = copy_image;
    layer.clEnqueueCopyImageToBuffer = copy_image_to_buffer;
    layer.clEnqueueCopyBufferToImage = copy_buffer_to_image;
    layer.clEnqueueMapBuffer = map_buffer;
    layer.clEnqueueMapImage = map_image;
    layer.clEnqueueUnmapMemObject = unmap;
    layer.clEnqueueMigrateMemObjects = migrate;
    layer.clEnqueueSVMMemcpy = svm_copy;
    layer.clEnqueueSVMMemFill = svm_fill;
    layer.clEnqueueSVMMap = svm_map;
    layer.clEnqueueSVMUnmap = svm_unmap;
    layer.clEnqueueSVMMigrateMem = svm_migrate;
}

EXPORT cl_int CL_API_CALL clGetLayerInfo(cl_layer_info what, size_t size, void *value, size_t *size_ret) {
    const cl_layer_api_version version = CL_LAYER_API_VERSION_100;
    const void *answer = what == CL_LAYER_API_VERSION ? (const void *)&version : "kdtool";
    size_t bytes = what == CL_LAYER_API_VERSION ? sizeof version : sizeof "kdtool";
    if (what != CL_LAYER_API_VERSION && what != CL_LAYER_NAME) return CL_INVALID_VALUE;
    if (value && size < bytes) return CL_INVALID_VALUE;
    if (value) memcpy(value, answer, bytes);
    if (size_ret) *size_ret = bytes;
    return CL_SUCCESS;
}

EXPORT cl_int CL_API_CALL clInitLayer(cl_uint n, const struct _cl_icd_dispatch *target, cl_uint *n_ret,
                                      const struct _cl_icd_dispatch **table) {
    if (!target || !n_ret || !table) return CL_INVALID_VALUE;
    if (driver && driver != target) {
        fprintf(stderr, "kdtool: process %d has a second OpenCL loader: its commands are not recorded\n", getpid());
        return CL_INVALID_OPERATION;
    }
    driver = target;
    has_timer = n * sizeof(void *) > offsetof(struct _cl_icd_dispatch, clGetDeviceAndHostTimer);
    fill_table();
    *n_ret = sizeof layer / sizeof(void *);
    *table = &layer;
    pthread_atfork(before_fork, in_parent, in_child);
    spool_open();
    return CL_SUCCESS;
}
