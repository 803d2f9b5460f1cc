"""A camera for tests: ``/usr/bin/python3 rtsp_server.py PORT WIDTH HEIGHT FPS [PASSWORD]`` serves rtsp://127.0.0.1:PORT/cam.

Port 0 takes a free one. Prints "serving PORT" once it listens. Needs gi and GstRtspServer 1.0.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - the versions come first


def main(port: str, width: str, height: str, fps: str, password: str = "") -> None:
    """Serve a bouncing ball as JPEG until killed."""
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={width},height={height},"
        f"framerate={fps} ! jpegenc ! rtpjpegpay name=pay0 )"
    )
    factory.set_shared(True)
    server = GstRtspServer.RTSPServer()
    if password:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_digest("bob", password, token)
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        server.set_auth(auth)
        allowed = GstRtspServer.RTSPPermissions()
        allowed.add_permission_for_role("user", "media.factory.access", True)
        allowed.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(allowed)
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/cam", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("serving", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
