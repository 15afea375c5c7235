// The echo server in Go: a goroutine for each connection. Built and started by echo_servers.py.
package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

const chunk = 64 * 1024

func serve(connection net.Conn, slow bool) {
	defer connection.Close()
	buffer := make([]byte, chunk)
	for {
		count, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if slow && buffer[0] == 'S' {
			time.Sleep(100 * time.Millisecond)
		}
		if _, err = connection.Write(buffer[:count]); err != nil {
			return
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("serving on %s\n", listener.Addr())
	for {
		connection, err := listener.Accept()
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go serve(connection, os.Args[2] == "slow")
	}
}
