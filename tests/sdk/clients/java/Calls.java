package granary;

import static granary.Walk.*;

import com.aliyun.oss.model.*;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.Map;

/** The calls that the cases are made of. */
final class Calls {
    private Calls() { }

    static PutObjectResult put(Walk.World w, String bucket, String key, byte[] body) {
        return w.client.putObject(bucket, key, in(body));
    }

    static byte[] get(Walk.World w, String bucket, String key) throws Exception {
        return read(w.client.getObject(bucket, key).getObjectContent());
    }

    static void versioning(Walk.World w, String bucket, String status) {
        w.client.setBucketVersioning(new SetBucketVersioningRequest(bucket, new BucketVersioningConfiguration(status)));
        equal(w.client.getBucketVersioning(bucket).getStatus(), status);
    }

    static String initiate(Walk.World w, String bucket, String key) {
        return w.client.initiateMultipartUpload(new InitiateMultipartUploadRequest(bucket, key)).getUploadId();
    }

    static PartETag part(Walk.World w, String bucket, String key, String upload, int number, byte[] body) throws Exception {
        PartETag part = w.client.uploadPart(new UploadPartRequest(bucket, key, upload, number, in(body), body.length)).getPartETag();
        equal(part.getETag(), etagOf(body));
        return part;
    }

    static CompleteMultipartUploadResult complete(Walk.World w, String bucket, String key, String upload, PartETag... parts) {
        return w.client.completeMultipartUpload(new CompleteMultipartUploadRequest(bucket, key, upload, new java.util.ArrayList<>(List.of(parts))));
    }

    /** The unsigned URL of an object. */
    static String address(String bucket, String key) {
        return ENDPOINT + "/" + bucket + "/" + key;
    }

    static HttpResponse<String> post(String bucket, Map<String, String> fields, String content) throws Exception {
        String line = "granary-form";
        StringBuilder form = new StringBuilder();
        fields.forEach((name, value) -> form.append("--" + line + "\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"));
        form.append("--" + line + "\r\nContent-Disposition: form-data; name=\"file\"; filename=\"up.txt\"\r\nContent-Type: text/plain\r\n\r\n" + content + "\r\n--" + line + "--\r\n");
        return plain("POST", ENDPOINT + "/" + bucket + "/", form.toString(), "Content-Type", "multipart/form-data; boundary=" + line);
    }
}
