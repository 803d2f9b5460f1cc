// watch: frames of a camera (V4L2) or of a raw NV12 file go through a model of edgepv, events come out as JSON lines.
//
//     watch SOURCE WIDTH HEIGHT LABEL THRESHOLD        SOURCE: /dev/video0, or a file of NV12 frames
//
// Frames must come at the model's own rate (edgepv_info.fps_num / fps_den): set the camera to it, or leave some out.
// An event of LABEL begins when its score has been at THRESHOLD or more for STEADY answers, and ends likewise below.
#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "edgepv.h"

extern "C" const edgepv_model EDGEPV_MODEL; // -DEDGEPV_MODEL=edgepv_model_NAME, see model.h of the firmware folder

constexpr int STEADY = 3;

[[noreturn]] void fail(const std::string &what) {
    std::fprintf(stderr, "watch: %s\n", what.c_str());
    std::exit(1);
}

void check(edgepv_status status) {
    if (status != EDGEPV_OK) fail(edgepv_text(status));
}

struct Source { // one picture after another, borrowed until the next
    virtual const uint8_t *next() = 0; // nullptr at the end
    virtual ~Source() = default;
};

struct File : Source {
    File(const char *path, size_t bytes) : file(std::fopen(path, "rb")), bytes(bytes), frame(new uint8_t[bytes]) {
        if (!file) fail(std::string("cannot read ") + path);
    }
    ~File() override { std::fclose(file); }
    const uint8_t *next() override { return std::fread(frame.get(), 1, bytes, file) == bytes ? frame.get() : nullptr; }
    std::FILE *file;
    size_t bytes;
    std::unique_ptr<uint8_t[]> frame;
};

struct Camera : Source { // the driver's own buffers, four of them, none copied
    Camera(const char *path, uint32_t width, uint32_t height, size_t bytes) : fd(open(path, O_RDWR)) {
        v4l2_format format{};
        format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        format.fmt.pix.width = width, format.fmt.pix.height = height, format.fmt.pix.pixelformat = V4L2_PIX_FMT_NV12;
        if (fd < 0 || ioctl(fd, VIDIOC_S_FMT, &format) < 0) fail(std::string("no camera at ") + path);
        const auto &got = format.fmt.pix;
        if (got.width != width || got.height != height || got.bytesperline != width ||
            got.pixelformat != V4L2_PIX_FMT_NV12 || got.sizeimage < bytes)
            fail("the camera has no NV12 of this size");
        v4l2_requestbuffers wanted{};
        wanted.count = 4, wanted.type = format.type, wanted.memory = V4L2_MEMORY_MMAP;
        if (ioctl(fd, VIDIOC_REQBUFS, &wanted) < 0 || wanted.count > 4) fail("the camera gives no buffers");
        for (uint32_t k = 0; k < wanted.count; k++) {
            v4l2_buffer one{};
            one.index = k, one.type = wanted.type, one.memory = V4L2_MEMORY_MMAP;
            if (ioctl(fd, VIDIOC_QUERYBUF, &one) < 0) fail("the camera gives no buffers");
            place[k] = mmap(nullptr, one.length, PROT_READ, MAP_SHARED, fd, one.m.offset);
            if (place[k] == MAP_FAILED || ioctl(fd, VIDIOC_QBUF, &one) < 0) fail("a buffer cannot be mapped");
        }
        int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        if (ioctl(fd, VIDIOC_STREAMON, &type) < 0) fail("the camera does not start");
        taken.type = wanted.type, taken.memory = V4L2_MEMORY_MMAP;
    }
    ~Camera() override { close(fd); }
    const uint8_t *next() override {
        if (held) ioctl(fd, VIDIOC_QBUF, &taken);
        held = ioctl(fd, VIDIOC_DQBUF, &taken) >= 0;
        return held ? static_cast<const uint8_t *>(place[taken.index]) : nullptr;
    }
    int fd;
    bool held = false;
    void *place[4] = {};
    v4l2_buffer taken{};
};

int main(int count, char **argument) {
    if (count != 6) fail("usage: watch SOURCE WIDTH HEIGHT LABEL THRESHOLD");
    const uint32_t width = uint32_t(std::atoi(argument[2])), height = uint32_t(std::atoi(argument[3]));
    const size_t luma = size_t(width) * height, bytes = luma + luma / 2;
    edgepv_info info{};
    info.size = sizeof info;
    check(edgepv_inform(&EDGEPV_MODEL, &info));
    uint32_t wanted = 0;
    while (wanted < info.labels && std::strcmp(edgepv_label(&EDGEPV_MODEL, wanted), argument[4])) wanted++;
    if (wanted == info.labels) fail(std::string(info.name) + " has no label " + argument[4]);

    const edgepv_camera camera{sizeof camera, width, height, EDGEPV_NV12};
    size_t needed, align, values;
    check(edgepv_need(&EDGEPV_MODEL, &camera, &needed, &align));
    void *memory = ::operator new(needed, std::align_val_t(align));
    edgepv_session *session;
    check(edgepv_begin(&EDGEPV_MODEL, &camera, memory, needed, &session));

    std::unique_ptr<Source> source;
    if (std::strncmp(argument[1], "/dev/", 5)) source = std::make_unique<File>(argument[1], bytes);
    else source = std::make_unique<Camera>(argument[1], width, height, bytes);
    edgepv_frame frame{};
    edgepv_answer answer{};
    frame.size = sizeof frame, answer.size = sizeof answer, frame.stride[0] = frame.stride[1] = width;
    const float threshold = float(std::atof(argument[5]));
    bool on = false;
    for (int in_a_row = 0; const uint8_t *picture = source->next();) {
        frame.plane[0] = picture, frame.plane[1] = picture + luma;
        const edgepv_status status = edgepv_step(session, &frame, &answer);
        if (status == EDGEPV_NOT_FINITE) continue; // as if the frame had not been
        check(status);
        const float *scores;
        check(edgepv_scores(session, &scores, &values));
        in_a_row = answer.valid && (scores[wanted] >= threshold) != on ? in_a_row + 1 : 0;
        if (in_a_row < STEADY) continue;
        on = !on, in_a_row = 0;
        std::printf("{\"event\": \"%s\", \"label\": \"%s\", \"frame\": %llu, \"score\": %.4f}\n", on ? "begin" : "end",
                    argument[4], static_cast<unsigned long long>(answer.index), double(scores[wanted]));
        std::fflush(stdout);
    }
    edgepv_end(session);
    ::operator delete(memory, std::align_val_t(align));
}
