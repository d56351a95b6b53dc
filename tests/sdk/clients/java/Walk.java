package granary;

import com.aliyun.oss.ClientBuilderConfiguration;
import com.aliyun.oss.OSS;
import com.aliyun.oss.OSSClientBuilder;
import com.aliyun.oss.OSSException;
import com.aliyun.oss.common.auth.DefaultCredentialProvider;
import com.aliyun.oss.common.comm.SignVersion;
import com.aliyun.oss.model.DeleteVersionsRequest;
import com.aliyun.oss.model.ListMultipartUploadsRequest;
import com.aliyun.oss.model.ListObjectsRequest;
import com.aliyun.oss.model.ListVersionsRequest;
import com.aliyun.oss.model.MultipartUpload;
import com.aliyun.oss.model.ObjectListing;
import com.aliyun.oss.model.AbortMultipartUploadRequest;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.stream.Collectors;

/** The official Java SDK against the server that the environment names; see tests/sdk/clients/program.py. */
public final class Walk {
    static final String ENDPOINT = System.getenv("GRANARY_ENDPOINT");
    static final String REGION = System.getenv("GRANARY_REGION");
    static final String KEY_ID = System.getenv("GRANARY_KEY_ID");
    static final String SECRET = System.getenv("GRANARY_KEY_SECRET");
    static final String CALLBACK = System.getenv("GRANARY_CALLBACK");
    static final Random RANDOM = new Random();
    static final HttpClient PLAIN = HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NEVER).build();

    /** What a case does. */
    interface Body {
        void run(World world) throws Exception;
    }

    /** One thing asked of the server; operations are in the API's spelling. */
    record Case(String name, String operations, Body body) { }

    /** One version of the signature. */
    static final class World {
        final String name;
        final SignVersion version;
        final OSS client;
        private final List<String> buckets = new ArrayList<>();
        private int made;

        World(String name, SignVersion version) {
            this.name = name;
            this.version = version;
            this.client = as(KEY_ID, SECRET);
        }

        /** A client with another key. It does not retry: that would hide an answer that should have been right the first time. */
        OSS as(String keyId, String secret) {
            ClientBuilderConfiguration config = new ClientBuilderConfiguration();
            config.setSignatureVersion(version);
            config.setMaxErrorRetry(0);
            return OSSClientBuilder.create().endpoint(ENDPOINT).region(REGION).clientConfiguration(config)
                .credentialsProvider(new DefaultCredentialProvider(keyId, secret)).build();
        }

        String bucketName(String kind) {
            return System.getenv("GRANARY_RUN") + "-" + name + "-" + kind + "-" + ++made;
        }

        /** A bucket that is removed after the case. */
        String bucket() {
            String bucket = bucketName("b");
            client.createBucket(bucket);
            buckets.add(bucket);
            return bucket;
        }

        void remember(String bucket) {
            buckets.add(bucket);
        }

        void clean() {
            List<String> all = List.copyOf(buckets);
            buckets.clear();
            all.forEach(this::empty);
        }

        private void empty(String bucket) {
            if (!client.doesBucketExist(bucket)) {
                return;
            }
            if ("Enabled".equals(client.getBucketInfo(bucket).getBucket().getHnsStatus())) {
                emptyDirectories(bucket);
                client.deleteBucket(bucket);
                return;
            }
            for (;;) {
                List<DeleteVersionsRequest.KeyVersion> all = client.listVersions(new ListVersionsRequest().withBucketName(bucket).withMaxResults(1000))
                    .getVersionSummaries().stream().map(v -> new DeleteVersionsRequest.KeyVersion(v.getKey(), v.getVersionId())).collect(Collectors.toList());
                if (all.isEmpty()) {
                    break;
                }
                client.deleteVersions(new DeleteVersionsRequest(bucket).withKeys(all).withQuiet(true));
            }
            for (MultipartUpload upload : client.listMultipartUploads(new ListMultipartUploadsRequest(bucket)).getMultipartUploads()) {
                client.abortMultipartUpload(new AbortMultipartUploadRequest(bucket, upload.getKey(), upload.getUploadId()));
            }
            client.deleteBucket(bucket);
        }

        /** Versions are not kept there, and not listed. */
        private void emptyDirectories(String bucket) {
            ObjectListing top = client.listObjects(new ListObjectsRequest(bucket).withDelimiter("/").withMaxKeys(1000));
            top.getObjectSummaries().forEach(entry -> client.deleteObject(bucket, entry.getKey()));
            for (String directory : top.getCommonPrefixes()) {
                String name = directory.substring(0, directory.length() - 1);
                String token = null;
                do {
                    token = client.deleteDirectory(bucket, name, true, token).getNextDeleteToken();
                } while (token != null && !token.isEmpty());
            }
        }
    }

    public static void main(String[] arguments) {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        List<World> worlds = List.of(new World("v1", SignVersion.V1), new World("v4", SignVersion.V4), new World("v2", SignVersion.V2));
        List<Case> cases = Cases.all();
        for (World world : worlds) {
            for (Case one : cases) {
                String message = run(world, one);
                List<String> operations = List.of(one.operations.split(" "));
                out.println("{\"case\": " + json(world.name + ": " + one.name) + ", \"operations\": ["
                    + operations.stream().map(Walk::json).collect(Collectors.joining(", ")) + "], \"ok\": " + (message == null) + ", \"message\": " + json(message) + "}");
            }
        }
        out.println("{\"cases\": " + worlds.size() * cases.size() + "}");
        out.flush();
        // The connections of the clients have threads of their own.
        System.exit(0);
    }

    private static String run(World world, Case one) {
        String message = null;
        try {
            one.body.run(world);
        } catch (Throwable problem) {
            message = described(problem);
        }
        try {
            world.clean();
        } catch (RuntimeException problem) {
            message = message == null ? "after the case: " + described(problem) : message;
        }
        return message;
    }

    private static String described(Throwable problem) {
        String where = Arrays.stream(problem.getStackTrace()).filter(frame -> "Cases.java".equals(frame.getFileName())).findFirst()
            .map(frame -> " at Cases.java:" + frame.getLineNumber()).orElse("");
        String text = problem instanceof OSSException refusal ? refusal.getErrorCode() + " " + refusal.getEC() + ": " + refusal.getErrorMessage() : problem.toString();
        return text + where;
    }

    private static String json(String text) {
        if (text == null) {
            return "\"\"";
        }
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < 0x20) {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }

    static void check(boolean holds, String sentence) {
        if (!holds) {
            throw new AssertionError(sentence);
        }
    }

    static void equal(Object got, Object want) {
        if (!Objects.equals(got, want)) {
            throw new AssertionError("got " + got + ", expected " + want);
        }
    }

    static void same(byte[] got, byte[] want) {
        if (!Arrays.equals(got, want)) {
            throw new AssertionError(got.length + " bytes came that are not the " + want.length + " expected");
        }
    }

    /** A call that has to be refused by the service. */
    interface Call {
        Object run() throws Exception;
    }

    static OSSException refused(String code, Call call) throws Exception {
        return refused(code, null, call);
    }

    static OSSException refused(String code, String ec, Call call) throws Exception {
        Object went;
        try {
            went = call.run();
        } catch (OSSException refusal) {
            equal(refusal.getErrorCode(), code);
            check(refusal.getRequestId() != null && refusal.getRequestId().matches("[0-9A-F]{24}"), "request id " + refusal.getRequestId());
            if (ec != null) {
                equal(refusal.getEC(), ec);
            }
            return refusal;
        }
        throw new AssertionError("expected " + code + ", but it went well: " + went);
    }

    static void noBucket(Call call) throws Exception {
        equal(refused("NoSuchBucket", "0015-00000101", call).getErrorMessage(), "The specified bucket does not exist.");
    }

    static void noKey(Call call) throws Exception {
        refused("NoSuchKey", "0026-00000001", call);
    }

    static byte[] bytes(int size) {
        byte[] body = new byte[size];
        RANDOM.nextBytes(body);
        return body;
    }

    static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static InputStream in(byte[] body) {
        return new ByteArrayInputStream(body);
    }

    static byte[] read(InputStream content) throws IOException {
        try (content) {
            return content.readAllBytes();
        }
    }

    static byte[] join(byte[]... pieces) throws IOException {
        java.io.ByteArrayOutputStream whole = new java.io.ByteArrayOutputStream();
        for (byte[] piece : pieces) {
            whole.write(piece);
        }
        return whole.toByteArray();
    }

    private static byte[] md5(byte[] body) throws Exception {
        return MessageDigest.getInstance("MD5").digest(body);
    }

    static String md5Of(byte[] body) throws Exception {
        return Base64.getEncoder().encodeToString(md5(body));
    }

    /** The ETag of bytes, without the quotes that the client takes away. */
    static String etagOf(byte[] body) throws Exception {
        StringBuilder hex = new StringBuilder();
        for (byte b : md5(body)) {
            hex.append(String.format("%02X", b));
        }
        return hex.toString();
    }

    /** The ETag of an object of parts: the MD5 of their ETags in a row, and how many they are. */
    static String etagOfParts(byte[]... parts) throws Exception {
        StringBuilder row = new StringBuilder();
        for (byte[] part : parts) {
            row.append(etagOf(part));
        }
        return etagOf(text(row.toString())) + "-" + parts.length;
    }

    static HttpResponse<String> plain(String method, String address, String body, String... headers) throws Exception {
        return plain(method, address, HttpRequest.BodyPublishers.ofString(body), headers);
    }

    static HttpResponse<String> plain(String method, String address, HttpRequest.BodyPublisher body, String... headers) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(address)).method(method, body);
        if (headers.length > 0) {
            request.headers(headers);
        }
        return PLAIN.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }
}
