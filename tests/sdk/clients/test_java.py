"""The official Java SDK: V1, V4, V2."""
import os

from . import program


def test_java_sdk(request, target, installed, log_path):
    place = installed("java")
    path = os.pathsep.join([os.path.join(place, "classes"), os.path.join(place, "lib", "*")])
    cases = program.run(["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", path, "granary.Walk"], target, log_path)
    program.report(request, "java", cases)
