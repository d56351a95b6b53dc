package main

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
)

// testCase is one thing asked of the server. Operations are in the API's spelling.
type testCase struct {
	name       string
	operations string
	run        func(w *world)
}

// failed ends a case.
type failed string

// runAll prints a line of JSON per case and one with their number.
func runAll(worlds []*world, cases []testCase) error {
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for _, w := range worlds {
		for _, c := range cases {
			message := runOne(w, c)
			if err := w.clean(); err != nil && message == "" {
				message = err.Error()
			}
			if err := out.Encode(result{w.name + ": " + c.name, strings.Fields(c.operations), message == "", message}); err != nil {
				return err
			}
		}
	}
	return out.Encode(map[string]int{"cases": len(worlds) * len(cases)})
}

type result struct {
	Case       string   `json:"case"`
	Operations []string `json:"operations"`
	OK         bool     `json:"ok"`
	Message    string   `json:"message"`
}

func runOne(w *world, c testCase) (message string) {
	defer func() {
		if problem := recover(); problem != nil {
			message = fmt.Sprint(problem)
			if _, known := problem.(failed); !known {
				message = "panic: " + message
			}
		}
	}()
	c.run(w)
	return ""
}

// fail ends the case with a sentence and where in the cases it was.
func fail(format string, arguments ...any) {
	where := ""
	for depth := 1; depth < 12; depth++ {
		_, file, line, ok := runtime.Caller(depth)
		if !ok {
			break
		}
		if base := filepath.Base(file); base != "walk.go" && base != "main.go" {
			where = fmt.Sprintf(" at %s:%d", base, line)
			break
		}
	}
	panic(failed(fmt.Sprintf(format, arguments...) + where))
}

// must gives the result of a call that has to go well.
func must[T any](value T, err error) T {
	if err != nil {
		fail("%v", err)
	}
	return value
}

func check(holds bool, format string, arguments ...any) {
	if !holds {
		fail(format, arguments...)
	}
}

// equal compares what came with what was expected; pointers by what they point to.
func equal(got, want any) {
	value := reflect.ValueOf(got)
	if value.Kind() == reflect.Pointer && reflect.ValueOf(want).Kind() != reflect.Pointer {
		if value.IsNil() {
			fail("got nothing, expected %#v", want)
		}
		got = value.Elem().Interface()
	}
	if !reflect.DeepEqual(got, want) {
		fail("got %#v, expected %#v", got, want)
	}
}

func same(got, want []byte) {
	if string(got) != string(want) {
		fail("%d bytes came that are not the %d expected", len(got), len(want))
	}
}

func serviceError(err error) *oss.ServiceError {
	var answer *oss.ServiceError
	if errors.As(err, &answer) {
		return answer
	}
	return nil
}

var requestID = regexp.MustCompile(`^[0-9A-F]{24}$`)

// refused wants an error of the service, whole and well-formed. An empty ec is any.
func refused(err error, status int, code, ec string) *oss.ServiceError {
	if err == nil {
		fail("expected %d %s, but it went well", status, code)
	}
	answer := serviceError(err)
	if answer == nil {
		fail("not an answer of the service: %v", err)
	}
	if answer.StatusCode != status || answer.Code != code {
		fail("got %d %s (%s), expected %d %s", answer.StatusCode, answer.Code, answer.Message, status, code)
	}
	check(requestID.MatchString(answer.RequestID), "request id %q", answer.RequestID)
	equal(answer.Headers.Get("x-oss-request-id"), answer.RequestID)
	equal(answer.Headers.Get("x-oss-ec"), answer.EC)
	if ec != "" {
		equal(answer.EC, ec)
	}
	return answer
}

func noBucket(err error) {
	answer := refused(err, 404, "NoSuchBucket", "0015-00000101")
	equal(answer.Message, "The specified bucket does not exist.")
}

func noKey(err error) {
	answer := refused(err, 404, "NoSuchKey", "0026-00000001")
	equal(answer.Message, "The specified key does not exist.")
}

func text(pointer *string) string { return oss.ToString(pointer) }

func etagOf(body []byte) string {
	sum := md5.Sum(body)
	return `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
}

func md5Of(body []byte) string {
	sum := md5.Sum(body)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// etagOfParts is the MD5 of the parts' ETags in a row, and how many they are.
func etagOfParts(parts ...[]byte) string {
	row := ""
	for _, part := range parts {
		row += strings.Trim(etagOf(part), `"`)
	}
	return fmt.Sprintf(`%s-%d"`, strings.TrimSuffix(etagOf([]byte(row)), `"`), len(parts))
}

func crcOf(body []byte) string {
	return fmt.Sprint(crc64.Checksum(body, crc64.MakeTable(crc64.ECMA)))
}

func (w *world) bytes(size int) []byte {
	body := make([]byte, size)
	w.random.Read(body)
	return body
}

// plain sends a request without the SDK.
func (w *world) plain(method, address string, body string, headers map[string]string) (int, http.Header, string) {
	request := must(http.NewRequest(method, address, strings.NewReader(body)))
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer := must(w.http.Do(request))
	defer answer.Body.Close()
	read := must(io.ReadAll(answer.Body))
	return answer.StatusCode, answer.Header, string(read)
}
