/* gstedgepv.c: the GStreamer element "edgepv" (1.22 and later). It lets pictures pass and posts what the model says.
 *
 * Each answer is an element message "edgepv" on the bus:
 *     model, label (string), label-index (int), score (double), valid, restarted (boolean), missed (uint),
 *     index, timestamp, stream-time, running-time (uint64)
 * Built with GStreamer's analytics library (1.24 and later), it also attaches the scores of all labels to the buffer, as
 * classification metadata, once the model has seen a full window.
 * The model sees the frames that are due at its own rate, as edgepv run picks them. It forgets what it saw at a
 * discontinuity, a flush and a change of caps. Buffers that come too late for the sink (QoS) are dropped before it.
 *
 * Build: see docs/firmware.md. With -DEDGEPV_MODEL=NAME the model of that symbol is linked in; otherwise the
 * property "library" names a shared object that has the function edgepv_compiled.
 */
#include "edgepv.h"

#include <gmodule.h>
#include <gst/gst.h>
#include <gst/video/gstvideofilter.h>
#include <gst/video/video.h>
#ifdef EDGEPV_ANALYTICS
#include <gst/analytics/analytics.h>
#endif

#ifndef PACKAGE
#define PACKAGE "edgepv"
#endif
#define ENTRY "edgepv_compiled"

typedef struct { /* which frames the model is owed, by their time: one for each tick of its rate */
    GstClockTime start;   /* of tick 0; GST_CLOCK_TIME_NONE before the first frame */
    GstClockTime last;    /* of the newest frame; where time goes back the stream is another one */
    guint64 tick;         /* the next one that has no frame yet */
    guint64 camera_n, camera_d, model_n, model_d; /* frames a second */
} Due;

typedef struct {
    GstVideoFilter parent;
    gchar *library;
    GModule *module;
    const edgepv_model *model;
    edgepv_info info;
    gpointer memory;
    edgepv_session *session; /* guarded by the object's lock where another thread cancels */
    gboolean seen;           /* whether the session has anything to forget */
    GQuark *names;           /* of the labels, for metadata */
    Due due;
} GstEdgepv;

typedef struct {
    GstVideoFilterClass parent;
} GstEdgepvClass;

enum { PROP_LIBRARY = 1 };

GType gst_edgepv_get_type(void);
G_DEFINE_TYPE(GstEdgepv, gst_edgepv, GST_TYPE_VIDEO_FILTER)

#ifdef EDGEPV_MODEL
extern const edgepv_model EDGEPV_MODEL;
#endif

/* --- which frames are due ---------------------------------------------------------------------------- */

static void due_reset(Due *due)
{
    due->start = due->last = GST_CLOCK_TIME_NONE;
    due->tick = 0;
}

/* Whether the model gets the frame of this time, and how many ticks before it got none. */
static gboolean due_at(Due *due, GstClockTime pts, guint32 *missed)
{
    *missed = 0;
    if (!GST_CLOCK_TIME_IS_VALID(pts))
        return TRUE;
    if (!GST_CLOCK_TIME_IS_VALID(due->start))
        due->start = pts;
    due->last = pts;
    guint64 frame = gst_util_uint64_scale_round(pts - due->start, due->camera_n, due->camera_d * GST_SECOND);
    guint64 num = due->model_n * due->camera_d, den = due->model_d * due->camera_n;
    guint64 first = gst_util_uint64_scale_ceil(frame, num, den);
    guint64 past = gst_util_uint64_scale_ceil(frame + 1, num, den);
    if (past <= due->tick)
        return FALSE;
    guint64 answered = MAX(due->tick, MIN(first, past - 1));
    *missed = (guint32)MIN(answered - due->tick, G_MAXUINT32);
    due->tick = answered + 1;
    return TRUE;
}

/* --- the model and its session ----------------------------------------------------------------------- */

static void drop_session(GstEdgepv *self)
{
    GST_OBJECT_LOCK(self);
    edgepv_end(self->session);
    self->session = NULL;
    GST_OBJECT_UNLOCK(self);
    g_clear_pointer(&self->memory, g_free);
    self->seen = FALSE;
    due_reset(&self->due);
}

static void forget(GstEdgepv *self)
{
    if (self->seen)
        edgepv_reset(self->session);
    self->seen = FALSE;
    due_reset(&self->due);
}

static const edgepv_model *model_of(GstEdgepv *self)
{
    const edgepv_model *(*entry)(void);
    gpointer symbol = NULL;

    if (self->library == NULL) {
#ifdef EDGEPV_MODEL
        return &EDGEPV_MODEL;
#else
        GST_ELEMENT_ERROR(self, RESOURCE, SETTINGS, ("no model: set the property library"), (NULL));
        return NULL;
#endif
    }
    self->module = g_module_open(self->library, G_MODULE_BIND_LOCAL);
    if (self->module == NULL || !g_module_symbol(self->module, ENTRY, &symbol)) {
        GST_ELEMENT_ERROR(self, RESOURCE, OPEN_READ, ("%s is no compiled model", self->library),
                          ("%s", g_module_error()));
        return NULL;
    }
    memcpy(&entry, &symbol, sizeof entry);
    return entry();
}

/* The labels as GLib's numbers, which metadata has for them. */
static void name_labels(GstEdgepv *self)
{
    self->names = g_new(GQuark, self->info.labels);
    for (guint32 i = 0; i < self->info.labels; i++)
        self->names[i] = g_quark_from_string(edgepv_label(self->model, i));
}

static gboolean gst_edgepv_start(GstBaseTransform *base)
{
    GstEdgepv *self = (GstEdgepv *)base;
    edgepv_status status;

    self->model = model_of(self);
    if (self->model == NULL)
        return FALSE;
    self->info.size = sizeof self->info;
    status = edgepv_inform(self->model, &self->info);
    if (status != EDGEPV_OK) {
        GST_ELEMENT_ERROR(self, LIBRARY, INIT, ("the model cannot be used: %s", edgepv_text(status)), (NULL));
        return FALSE;
    }
    if (self->info.labels == 0) {
        GST_ELEMENT_ERROR(self, LIBRARY, INIT,
                          ("%s is no classifier: there is no label to post", self->info.name), (NULL));
        return FALSE;
    }
    name_labels(self);
    return TRUE;
}

static gboolean gst_edgepv_stop(GstBaseTransform *base)
{
    GstEdgepv *self = (GstEdgepv *)base;

    drop_session(self);
    g_clear_pointer(&self->names, g_free);
    g_clear_pointer(&self->module, g_module_close);
    return TRUE;
}

static guint32 format_of(GstVideoFormat format)
{
    switch (format) {
    case GST_VIDEO_FORMAT_BGR:
        return EDGEPV_BGR24;
    case GST_VIDEO_FORMAT_RGB:
        return EDGEPV_RGB24;
    case GST_VIDEO_FORMAT_NV12:
        return EDGEPV_NV12;
    case GST_VIDEO_FORMAT_GRAY8:
        return EDGEPV_GRAY8;
    default:
        return 0;
    }
}

static void set_rates(GstEdgepv *self, const GstVideoInfo *info)
{
    Due *due = &self->due;
    gboolean known = GST_VIDEO_INFO_FPS_N(info) > 0;

    due->model_n = self->info.fps_num;
    due->model_d = self->info.fps_den;
    due->camera_n = known ? (guint64)GST_VIDEO_INFO_FPS_N(info) : due->model_n;
    due->camera_d = known ? (guint64)GST_VIDEO_INFO_FPS_D(info) : due->model_d;
}

static gboolean gst_edgepv_set_info(GstVideoFilter *filter, GstCaps *in, GstVideoInfo *info, GstCaps *out,
                                    GstVideoInfo *out_info)
{
    GstEdgepv *self = (GstEdgepv *)filter;
    const edgepv_camera camera = {sizeof camera, (uint32_t)GST_VIDEO_INFO_WIDTH(info),
                                  (uint32_t)GST_VIDEO_INFO_HEIGHT(info), format_of(GST_VIDEO_INFO_FORMAT(info))};
    edgepv_session *session = NULL;
    size_t bytes, align;
    edgepv_status status = edgepv_need(self->model, &camera, &bytes, &align);

    (void)in, (void)out, (void)out_info;
    drop_session(self);
    if (status == EDGEPV_OK) {
        self->memory = g_malloc(bytes + align);
        guintptr start = ((guintptr)self->memory + align - 1) / align * align;
        status = edgepv_begin(self->model, &camera, (void *)start, bytes, &session);
    }
    if (status != EDGEPV_OK) {
        GST_ELEMENT_ERROR(self, STREAM, FORMAT, ("no session for these frames: %s", edgepv_text(status)), (NULL));
        return FALSE;
    }
    GST_OBJECT_LOCK(self);
    self->session = session;
    GST_OBJECT_UNLOCK(self);
    set_rates(self, info);
    return TRUE;
}

/* --- frames ------------------------------------------------------------------------------------------ */

static void post(GstEdgepv *self, const edgepv_answer *answer, GstClockTime pts)
{
    const GstSegment *segment = &GST_BASE_TRANSFORM(self)->segment;
    GstStructure *told = gst_structure_new(
        "edgepv", "model", G_TYPE_STRING, self->info.name, "label", G_TYPE_STRING,
        edgepv_label(self->model, (uint32_t)answer->label), "label-index", G_TYPE_INT, (gint)answer->label, "score",
        G_TYPE_DOUBLE, (gdouble)answer->score, "valid", G_TYPE_BOOLEAN, (gboolean)answer->valid, "restarted",
        G_TYPE_BOOLEAN, (gboolean)answer->restarted, "missed", G_TYPE_UINT, (guint)answer->missed, "index",
        G_TYPE_UINT64, (guint64)answer->index, "timestamp", G_TYPE_UINT64, (guint64)pts, "stream-time",
        G_TYPE_UINT64, gst_segment_to_stream_time(segment, GST_FORMAT_TIME, pts), "running-time", G_TYPE_UINT64,
        gst_segment_to_running_time(segment, GST_FORMAT_TIME, pts), NULL);

    gst_element_post_message(GST_ELEMENT(self), gst_message_new_element(GST_OBJECT(self), told));
}

#ifdef EDGEPV_ANALYTICS
/* Let the buffer tell the scores of all labels. */
static void attach(GstEdgepv *self, GstBuffer *buffer)
{
    GstAnalyticsRelationMeta *meta = gst_buffer_get_analytics_relation_meta(buffer);
    GstAnalyticsClsMtd told;
    const float *scores;
    size_t count;

    if (edgepv_scores(self->session, &scores, &count) != EDGEPV_OK)
        return;
    if (meta == NULL)
        meta = gst_buffer_add_analytics_relation_meta(buffer);
    gst_analytics_relation_meta_add_cls_mtd(meta, count, (gfloat *)scores, self->names, &told); /* it copies them */
}

/* Metadata wants a buffer that is nobody else's; its picture stays shared, and is not copied. */
static GstFlowReturn gst_edgepv_prepare_output_buffer(GstBaseTransform *base, GstBuffer *in, GstBuffer **out)
{
    (void)base;
    *out = gst_buffer_is_writable(in) ? in : gst_buffer_copy(in);
    return GST_FLOW_OK;
}
#else
static void attach(GstEdgepv *self, GstBuffer *buffer)
{
    (void)self, (void)buffer;
}
#endif

static void borrow(const GstVideoFrame *video, guint32 missed, edgepv_frame *frame)
{
    memset(frame, 0, sizeof *frame);
    frame->size = sizeof *frame;
    for (guint k = 0; k < GST_VIDEO_FRAME_N_PLANES(video); k++) {
        frame->plane[k] = GST_VIDEO_FRAME_PLANE_DATA(video, k);
        frame->stride[k] = (uint32_t)GST_VIDEO_FRAME_PLANE_STRIDE(video, k);
    }
    frame->pts_ns = GST_BUFFER_PTS(video->buffer);
    frame->missed = missed;
}

static GstFlowReturn gst_edgepv_transform_frame_ip(GstVideoFilter *filter, GstVideoFrame *video)
{
    GstEdgepv *self = (GstEdgepv *)filter;
    GstClockTime pts = GST_BUFFER_PTS(video->buffer);
    edgepv_answer answer = {sizeof answer, 0, 0, 0, 0, 0, 0, 0};
    edgepv_frame frame;
    guint32 missed;

    if (GST_BUFFER_IS_DISCONT(video->buffer) || (GST_CLOCK_TIME_IS_VALID(self->due.last) && pts < self->due.last))
        forget(self);
    if (!due_at(&self->due, pts, &missed))
        return GST_FLOW_OK;
    borrow(video, missed, &frame);
    edgepv_status status = edgepv_step(self->session, &frame, &answer);
    switch (status) {
    case EDGEPV_OK:
        self->seen = TRUE;
        post(self, &answer, pts);
        if (answer.valid)
            attach(self, video->buffer);
        return GST_FLOW_OK;
    case EDGEPV_CANCELLED: /* the pipeline is stopped */
        return GST_FLOW_FLUSHING;
    case EDGEPV_NOT_FINITE:
        GST_ELEMENT_WARNING(self, LIBRARY, FAILED, ("no answer: %s", edgepv_text(status)), (NULL));
        return GST_FLOW_OK;
    default:
        GST_ELEMENT_ERROR(self, LIBRARY, FAILED, ("no answer: %s", edgepv_text(status)), (NULL));
        return GST_FLOW_ERROR;
    }
}

static gboolean gst_edgepv_sink_event(GstBaseTransform *base, GstEvent *event)
{
    if (GST_EVENT_TYPE(event) == GST_EVENT_FLUSH_STOP)
        forget((GstEdgepv *)base);
    return GST_BASE_TRANSFORM_CLASS(gst_edgepv_parent_class)->sink_event(base, event);
}

static GstStateChangeReturn gst_edgepv_change_state(GstElement *element, GstStateChange change)
{
    GstEdgepv *self = (GstEdgepv *)element;

    if (change == GST_STATE_CHANGE_PAUSED_TO_READY) {
        GST_OBJECT_LOCK(self);
        edgepv_cancel(self->session);
        GST_OBJECT_UNLOCK(self);
    }
    return GST_ELEMENT_CLASS(gst_edgepv_parent_class)->change_state(element, change);
}

/* --- the element ------------------------------------------------------------------------------------- */

static void gst_edgepv_set_property(GObject *object, guint id, const GValue *value, GParamSpec *spec)
{
    GstEdgepv *self = (GstEdgepv *)object;

    if (id != PROP_LIBRARY) {
        G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
        return;
    }
    g_free(self->library);
    self->library = g_value_dup_string(value);
}

static void gst_edgepv_get_property(GObject *object, guint id, GValue *value, GParamSpec *spec)
{
    if (id == PROP_LIBRARY)
        g_value_set_string(value, ((GstEdgepv *)object)->library);
    else
        G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
}

static void gst_edgepv_finalize(GObject *object)
{
    g_free(((GstEdgepv *)object)->library);
    G_OBJECT_CLASS(gst_edgepv_parent_class)->finalize(object);
}

static GstPadTemplate *pad(const gchar *name, GstPadDirection direction)
{
    GstCaps *caps = gst_caps_from_string("video/x-raw, format = { NV12, BGR, RGB, GRAY8 }, "
                                         "width = [ 1, 16384 ], height = [ 1, 16384 ]");
    GstPadTemplate *made = gst_pad_template_new(name, direction, GST_PAD_ALWAYS, caps);

    gst_caps_unref(caps);
    return made;
}

static void gst_edgepv_class_init(GstEdgepvClass *class)
{
    GObjectClass *object = G_OBJECT_CLASS(class);
    GstElementClass *element = GST_ELEMENT_CLASS(class);
    GstBaseTransformClass *base = GST_BASE_TRANSFORM_CLASS(class);
    GstVideoFilterClass *filter = GST_VIDEO_FILTER_CLASS(class);

    object->set_property = gst_edgepv_set_property;
    object->get_property = gst_edgepv_get_property;
    object->finalize = gst_edgepv_finalize;
    g_object_class_install_property(
        object, PROP_LIBRARY,
        g_param_spec_string("library", "Library", "Shared object of a compiled model; unset: the one linked in",
                            NULL, G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_READY));
    gst_element_class_set_static_metadata(element, "Video model, frame by frame", "Filter/Analyzer/Video",
                                          "Posts what a streamed video classifier says of each frame", "edgepv");
    gst_element_class_add_pad_template(element, pad("sink", GST_PAD_SINK));
    gst_element_class_add_pad_template(element, pad("src", GST_PAD_SRC));
    element->change_state = gst_edgepv_change_state;
    base->start = gst_edgepv_start;
    base->stop = gst_edgepv_stop;
    base->sink_event = gst_edgepv_sink_event;
#ifdef EDGEPV_ANALYTICS
    base->prepare_output_buffer = gst_edgepv_prepare_output_buffer;
#endif
    filter->set_info = gst_edgepv_set_info;
    filter->transform_frame_ip = gst_edgepv_transform_frame_ip;
}

static void gst_edgepv_init(GstEdgepv *self)
{
    gst_base_transform_set_passthrough(GST_BASE_TRANSFORM(self), TRUE); /* pictures are only looked at */
    gst_base_transform_set_qos_enabled(GST_BASE_TRANSFORM(self), TRUE);
    due_reset(&self->due);
}

static gboolean plugin_init(GstPlugin *plugin)
{
    return gst_element_register(plugin, "edgepv", GST_RANK_NONE, gst_edgepv_get_type());
}

GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, edgepv, "Streamed video models of edgepv", plugin_init, "1",
                  "Apache-2.0", PACKAGE, "https://gstreamer.freedesktop.org")
